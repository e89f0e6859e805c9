"""The only owner of `python -m robustcl`, for checkouts that are not installed."""

from robustcl.cli import main

if __name__ == "__main__":
    main()
