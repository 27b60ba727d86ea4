"""The job registry's Redis keys. An entry is "<padded sequence number>:<id>:<kind>:<config>"; it stands for a job."""

from __future__ import annotations

JOB = "{backbeat}:job:"  # + id: hash, all of a job (see Job; instants in ms). TTL 24 h once it is over
READY = "{backbeat}:jobs:ready:"  # + capability: sorted set, entry -> rank, best first. No TTL
DELAYED = "{backbeat}:jobs:delayed:"  # + capability: sorted set, entry -> not_before in ms. No TTL
HOLDS = "{backbeat}:jobs:holds:"  # + node id: sorted set, entry that node holds -> claimed or started, ms. No TTL
HOLDERS = "{backbeat}:jobs:holders"  # set of the nodes that hold jobs. No TTL
CLAIMED = "{backbeat}:jobs:claimed"  # sorted set, entry -> claimed_at in ms. No TTL
RUNNING = "{backbeat}:jobs:running"  # sorted set, entry -> deadline (started_at + timeout) in ms. No TTL
HEARD = "{backbeat}:jobs:heard"  # sorted set, claimed or running entry -> last heartbeat in ms. No TTL
FINISHED = "{backbeat}:jobs:finished"  # sorted set, entry -> finished_at in ms; newest 1000 of 24 h. No TTL
COUNTS = "{backbeat}:jobs:counts"  # hash, status:.. | kind:..:.. | outstanding:..:.. | pending:.. -> jobs. No TTL
GAMES = "{backbeat}:jobs:games"  # hash, config -> games produced by completed jobs. No TTL
SEQ = "{backbeat}:jobs:seq"  # string, the last job's sequence number. No TTL

#: In the order in which the scripts take them.
KEYS = (JOB, READY, DELAYED, HOLDS, HOLDERS, CLAIMED, RUNNING, HEARD, FINISHED, COUNTS, GAMES, SEQ)
