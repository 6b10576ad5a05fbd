"""The two hosts. Import them by name (`p2p.io.libp2p_host`): libp2p costs most of a second, so nothing is imported here."""
