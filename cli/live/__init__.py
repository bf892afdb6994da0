"""The live view of `farm watch`: the runs that train, the queue and the table on one screen of a terminal."""
