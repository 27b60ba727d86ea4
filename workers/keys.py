"""Every Redis key of Backbeat on one page.

All keys share the hash tag `{backbeat}`, so that a script may touch several of them.
Two clusters on one server use two databases. Leases carry their end as a field or a score, on Redis
time, and are judged by the scripts; no key that holds state expires by itself unless it says so here.
The broker's own keys (the queues `loops`, `leader`, `node.*` and `jobs.*`, `_kombu.*`, `unacked*`) are Celery's.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleet import elo_board, gathering_state, job_keys, nodes, notice_groups, notices, replies, scale_state

LOOPS = "{backbeat}:loops"
LOOP = "{backbeat}:loop:"
DUE = "{backbeat}:due"
RUNNING = "{backbeat}:running"
ISSUED = "{backbeat}:issued"
HISTORY = "{backbeat}:history:"
BEAT = "{backbeat}:beat"
BEATS = "{backbeat}:beats"
LEADER = "{backbeat}:leader"
GUARD = "{backbeat}:leader:guard"


@dataclass(frozen=True)
class Key:
    """One key, or a family of keys when the name ends in `:`. `ttl` is `none`, or what ends by itself and when."""

    name: str
    type: str
    ttl: str
    meaning: str

    def covers(self, key: str) -> bool:
        """Whether `key` is this key, or of this family."""
        return key == self.name or (self.name.endswith(":") and key.startswith(self.name))


PAGE = (
    Key(LOOPS, "set", "none", "names of the loops that beat fires"),
    Key(LOOP, "hash", "none", "+ name: a loop's cadence, switches, counters, current run, last run, last error"),
    Key(HISTORY, "list", "newest 60", "+ name: a loop's runs, oldest first: when it ended (ms)|duration (ms)|outcome"),
    Key(DUE, "zset", "none", "loop -> when it is due next (ms): its slot, or the end of its backoff"),
    Key(RUNNING, "zset", "none", "loop -> when its run lease ends (ms); renewed while the body runs"),
    Key(ISSUED, "zset", "none", "loop -> when its untaken tick was last sent (ms)"),
    Key(BEAT, "hash", "field until", "the active beat's lease: token, identity, since, until"),
    Key(BEATS, "zset", "60 s a member", "beat replica -> last poll (ms)"),
    Key(LEADER, "hash", "4 s after a renewal", "the leader's lease: token, fence, node_id, host, pid, since, until"),
    Key(GUARD, "hash", "none", "the newest fence seen and its owner; every fenced write asks it"),
    Key(nodes.NODES, "zset", "none", "node -> last_seen (ms)"),
    Key(nodes.NODE, "hash", "none", "+ node: what its processes report, its last hour, its marks (JSON)"),
    Key(nodes.TOTALS, "stream", "newest 720", "what nodes and queue amounted to: a row a cycle of health_aggregation"),
    Key(job_keys.JOB, "hash", "24 h once it is over", "+ id: all of a job (instants in ms)"),
    Key(job_keys.READY, "zset", "none", "+ capability: entry of a job that can be claimed -> rank, best first"),
    Key(job_keys.DELAYED, "zset", "none", "+ capability: entry of a job in its backoff -> not_before (ms)"),
    Key(job_keys.HOLDS, "zset", "none", "+ node: entry of a job it holds -> when it claimed or started it (ms)"),
    Key(job_keys.HOLDERS, "set", "none", "nodes that hold jobs"),
    Key(job_keys.CLAIMED, "zset", "none", "entry of a claimed job -> claimed_at (ms)"),
    Key(job_keys.RUNNING, "zset", "none", "entry of a running job -> its deadline, started_at + timeout (ms)"),
    Key(job_keys.HEARD, "zset", "none", "entry of a claimed or running job -> last heartbeat (ms)"),
    Key(job_keys.FINISHED, "zset", "24 h a member, newest 1,000", "entry of a job that is over -> finished_at (ms)"),
    Key(job_keys.COUNTS, "hash", "none", "status:.., kind:..:.., outstanding:..:.., pending:.. -> jobs"),
    Key(job_keys.GAMES, "hash", "none", "board configuration -> games in completed jobs"),
    Key(job_keys.SEQ, "string", "none", "sequence number of the last job"),
    Key(scale_state.SCALING, "hash", "none", "what scaling knows from run to run (JSON), and `pinned` by an operator"),
    Key(elo_board.ELO, "hash", "none", "board configuration -> its ratings (JSON); the empty name -> the set's digest"),
    Key(
        elo_board.TARGETS, "hash", "none", "board configuration -> its target, whether and since when it is met (JSON)"
    ),
    Key(gathering_state.GATHERING, "hash", "none", "node -> what gathering its games remembers (JSON); `` -> of all"),
    Key(notices.EVENTS, "stream", "newest 1,000 or so", "what the operator was told: title, body, severity"),
    Key(replies.REPLY, "list", "60 s", "+ token: one node's answer to whoever asked it"),
    Key(notice_groups.DUE, "zset", "none", "title of notices -> when their message is due (ms)"),
    Key(notice_groups.HELD, "hash", "24 h since its last", "+ title: what its next message says, when one was tried"),
)
