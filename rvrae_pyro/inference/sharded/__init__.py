"""Exact gradients over shards of assets, on disk or in several processes."""
