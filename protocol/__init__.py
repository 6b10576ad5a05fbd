"""The shared vocabulary: what every part of the node means by its words.

Pure: no I/O, no clock, no randomness, no floats. Imports nothing of ours. Reading order:

    ids, rejection, limits     names, refusals, bounds
    digest, merkle, keys       hashes, proofs, signatures
    codec, envelope            bytes in, checked values out
    roster                     Roster, Head, Slot, Decided: what learning takes from the chain
    finality                   votes, certificates, headers, proposals
    learning                   deltas, announcements, requests for bytes
    experts                    experts and slices of them
    answers                    what a door signs about an answer, so that it can be audited
    badges                     what a node verified about itself
    erasure                    blobs kept as cells: manifests, cells, what each class of blob gets
    coded_tables               tables by which holders of cells see that they are of one code
    availability               what they sign when they have stored them, and what the bytes are
    cells                      what nodes ask each other about such blobs
    genesis, epochs            the first state, the rules of its network, runs of heights in which they hold
    transactions               what accounts sign to change the state
    state_proof                how one entry of the state is proved by its root
    state_sync                 a state by parts, each proved by the root
    light_client               certified headers with their rosters, for whoever holds no chain
    recovery                   what operators say when a chain cannot go on by itself
    messages                   which payload belongs to which kind of envelope
"""
