"""`python -m transfer extract`, from a clone: images -> stored features. `python extract.py --help` says more."""

from transfer.runtime import interrupts

if __name__ == "__main__":
    interrupts.install()  # before what takes time to import
    from transfer.cli import extract

    extract.main()
