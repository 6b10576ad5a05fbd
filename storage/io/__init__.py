"""Where storage touches the disk: RocksDB, memory maps, files and locks."""
