"""A decode loop of our own: a fixed place for keys and values, steps on the device, a host that watches."""
