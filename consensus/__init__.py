"""The rules, pure: what may be decided, by whom, and when. No async, no clock, no randomness, no floats.

Reading order:

    election     who looks after which tile
    heads        the whole rule for one head
    signers      who signed a certificate, and whether they weigh enough
    finality/    votes and certificates: how a body becomes final
    light_client how somebody without the chain learns what is final, in a few steps
    recovery     how a chain goes on that cannot go on by itself
    state_tree   entries as a persistent map with a Merkle root
    state        what every account, validator, record and tile is after a block
    history      proof of history and hash onions
    beacon       randomness that no member chose, from both
    epochs       who votes in which epoch
    custody      who keeps which cells of a coded blob, and what of them it must show
    availability votes and certificates that a blob's cells are kept
    kept         which certificates the state has, and what goes when its time is over
    call_shares  how the calls of experts are divided among those who hold copies
    expert_allocation  who holds which experts
    transition   what each kind of transaction does to the state, and how a block is applied
    mempool      which transactions wait, which go, which a proposer takes
    known_histories  which histories this node walked or verified, and asked for
    execution    what enters a body, which bodies may be voted for, what a final one changes
    rounds       when to learn, whom to give deltas, when to merge, when to take over
    events       what goes in and what comes out
    engine       the door: one event in, effects out
"""
