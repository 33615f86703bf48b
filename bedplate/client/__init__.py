"""Clients of services, blocking and asynchronous."""
