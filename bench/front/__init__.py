"""How steady are your saliency maps when the image is nudged, and did a new version harm them?"""


def __getattr__(name: str) -> str:
    """Look up the version when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415 - takes a while

    return version("steadymap")
