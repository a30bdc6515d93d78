"""Devices and processes: the mesh, and several machines that train as one."""
