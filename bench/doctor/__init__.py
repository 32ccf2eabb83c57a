"""What is here and what is broken."""
