"""A resumable run: epochs, checkpoints, metrics; and whole networks trained, from some layer on or from another one."""
