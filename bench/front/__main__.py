"""`python -m steadymap`."""

from steadymap.bench.start import main

if __name__ == "__main__":
    main()
