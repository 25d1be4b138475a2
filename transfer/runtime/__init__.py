"""The machine: processes, devices, memory, caches and the progress of what takes long."""
