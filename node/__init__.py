"""Where the parts meet: the real world's composition root.

Reading order:

    node        the wiring: cores, shells, channels, one nursery; what each effect means outside
    reactor     one event in, effects performed in order
    inbound     bytes from peers -> checked messages -> events, or a refusal with its blame
    ground      what a node stands on: directory, keys, genesis, stores, journals
    tile_work   tile arithmetic, where compute and storage meet
    worker      the child process that learns
    history_work  proof of history on every core, in history_worker's processes
    part_work   parts of a state, proved and made rows of in part_worker's processes
    services/   merging and applying, learning, exchanging bytes, presence, housekeeping
    view, api/  what the outside may see and ask
    cli, commands/  what a person types
    verify      everything derived again from genesis
"""
