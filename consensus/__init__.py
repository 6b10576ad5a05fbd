"""The rules, pure: what may be decided, by whom, and when. No async, no clock, no randomness, no floats.

Reading order:

    election     who looks after which tile
    heads        the state that the chain decides, and the whole rule for one head
    finality/    votes and certificates: how a body becomes final
    execution    which heads enter a body, which bodies may be voted for
    rounds       when to learn, whom to give deltas, when to merge, when to take over
    events       what goes in and what comes out
    engine       the door: one event in, effects out
"""
