"""Campaigns that take minutes: `make hard` runs them."""
