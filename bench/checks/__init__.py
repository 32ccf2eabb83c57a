"""Conformance: is a method what it says it is?"""
