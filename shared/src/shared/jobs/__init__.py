"""Jobs: long work as a row whose state is the truth, and dramatiq messages that only trigger it.

| state   | what happens                                              | next    | by                  |
| ------- | --------------------------------------------------------- | ------- | ------------------- |
| none    | a request commits the row, with a trigger in the outbox   | queued  | `enqueue`           |
| queued  | a trigger arrives; the attempt counts, a lease begins     | running | `claim`             |
| queued  | `TRIGGER_PATIENCE` has passed; a trigger is sent again    | queued  | `requeue_lost_jobs` |
| queued  | the same, with `MAX_ATTEMPTS` used up                     | failed  | `requeue_lost_jobs` |
| running | the task finishes                                         | done    | `Run.finish`        |
| running | the task raises a `Problem`                               | failed  | `claim`             |
| running | the task raises `Unavailable`; the attempt does not count | queued  | `claim`             |
| running | the lease has expired, as the process died or hangs       | queued  | `requeue_lost_jobs` |

A trigger may be delivered twice; `claim` lets one start win. A killed process loses all its jobs, and we cannot
tell which of them killed it. So jobs that lost `SUSPECT_ATTEMPTS` attempts run one at a time, beside others.
"""
