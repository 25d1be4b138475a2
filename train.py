"""`python -m transfer train`, from a clone: features -> a trained head. `python train.py --help` says more."""

from transfer.runtime import interrupts

if __name__ == "__main__":
    interrupts.install()  # before what takes time to import
    from transfer.cli import train

    train.main()
