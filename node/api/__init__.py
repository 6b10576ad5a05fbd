"""The HTTP API on loopback: reads of immutable state, and a few requests that change something.

It sees the node only through `view.NodeView`. Read `routes` first (the table), then `handlers`, then `server`.
"""
