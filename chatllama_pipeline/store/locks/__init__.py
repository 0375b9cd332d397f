"""Who may change what in a store: one at a time, by the kernel's locks, and by leases where those
stay on one machine."""
