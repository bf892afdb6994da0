"""Machines for rent: what a cloud offers, and who launches, watches over and ends what the farm rents."""
