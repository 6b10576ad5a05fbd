"""Level one: the real cores of many peers alone, on one heap of events in virtual milliseconds.

Each peer is an engine (``consensus/engine.py``) and a disk of dictionaries; its shells are a few lines here:

    world     the heap, the clock, who comes and goes, what goes wrong    faults     a scenario's, as calls at their times
    peer      one engine, and what each of its effects means              disk       what survives the process
    network   latency, rates, cuts, and every byte that travels           gossip     trees over whoever runs
    shared    what one of them computed, for all of them                  learner    change, residual, payload, signature
    account   samples and happenings, for the report

What is left out, against whole nodes (``simnet/virtual``): sockets, streams, admission, back pressure, discovery, transactions,
writes that tear. Adverts and the polls of those who follow are soft state and no events: their bytes are counted by region. A
round's announcement reaches owners and aggregators alone, because nobody else waits for learners; its bytes are counted to
everybody. Connections are those that learning needs: to the roster, and within a region that has no member of it.
"""
