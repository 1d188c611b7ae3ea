"""Judges a trial whose failovers lost commits: what is lost is lost for all in the same way, and all are told."""

import collections

from answers import server

KINDS = ["REQUEST_CREATED", "REQUEST_REJECTED", "CONNECTION_CREATED", "CONNECTION_REMOVED", "USER_UPDATED"]


class History:
    """The epochs of the database, and the events after the beginning of the trial."""

    def __init__(self, database, start):
        rows = database.rows("SELECT epoch, first_sequence FROM epochs ORDER BY number")
        self.epochs = {epoch: number for number, (epoch, _) in enumerate(rows)}
        self.firsts = [int(first) for _, first in rows]
        self.newest, self.start = rows[-1][0], start
        self.events = [(int(sequence), kind, int(user), int(other or 0), int(request or 0))
                       for sequence, kind, user, other, request in database.rows(
                           f"SELECT sequence, kind, user_id, other_user_id, request_id FROM events "
                           f"WHERE sequence > {start} ORDER BY sequence")]

    def common(self, epoch, newest=None):
        """Returns the last sequence up to which nothing of an epoch was lost when another one was the newest.

        None: the epoch is the newest, or one of them is not known.
        """
        newest = newest or self.newest
        if epoch not in self.epochs or newest not in self.epochs:
            return None
        later = self.firsts[self.epochs[epoch] + 1:self.epochs[newest] + 1]
        return min(later) - 1 if later else None

    def is_lost(self, epoch, revision):
        common = self.common(epoch)
        return epoch not in self.epochs or common is not None and revision > common


def differences(database, reports, start, servers):
    """Returns what is wrong, a line each, and a summary."""
    history = History(database, start)
    acknowledged = [write for report in reports for write in report["acknowledged"]]
    lost = [write for write in acknowledged if history.is_lost(write[2], write[3])]
    told = [refusal for report in reports for watcher in report["watchers"] for refusal in watcher["told"]]
    refusals = [refusal for report in reports for refusal in report["refusals"]]
    wrong = consumers(history, reports) + commons(history, [refusal[:4] for refusal in told] + refusals)
    pairs = {write[1] for write in acknowledged if write[0] != "USER_UPDATED"}
    for each in servers:
        wrong += server(each, database, history, pairs, [write[2:4] for write in lost])
    wrong += writes(history, acknowledged)
    wrong += reads(history, [read for report in reports for read in report["reads"]])
    wrong += [line for report in reports for line in report["wrong"]]
    wrong += [line for report in reports for watcher in report["watchers"] for line in watcher["wrong"]]
    if not lost:
        wrong.append("no acknowledged write was lost: the trial shows nothing")
    return wrong, summary(history, acknowledged, lost, told, refusals)


def summary(history, acknowledged, lost, told, refusals):
    of_epochs = collections.Counter(write[2] for write in lost)
    lossy = [str(of_epochs[epoch]) for epoch in history.epochs if of_epochs[epoch]]
    without = sum(common is None for _, _, common, *_ in [*told, *refusals])
    return (f"{len(history.epochs)} epochs; of {len(acknowledged)} acknowledged writes {len(lost)} were lost "
            f"({', '.join(lossy) or 'none'} of an epoch); watchers were told {len(told)} times, of which "
            f"{sum(received > (common or 0) for _, _, common, _, received in told)} had received lost events, and "
            f"reads {len(refusals)} times; {without} times by a server that did not know the epoch")


def writes(history, acknowledged):
    """An acknowledged write is in the feed once, or was lost. Nothing is there that nobody made."""
    found, made, wrong = collections.defaultdict(list), collections.defaultdict(list), []
    for sequence, kind, user, other, request in history.events:
        key = (kind, min(user, other), max(user, other))
        if kind in KINDS:
            found[key].append((sequence, request))
    for kind, pair, epoch, revision, request_id in acknowledged:
        is_lost = history.is_lost(epoch, revision)
        made[(kind, min(pair), max(pair))].append((is_lost, epoch, revision, request_id))
        if epoch in history.epochs and revision < history.firsts[history.epochs[epoch]]:
            wrong.append(f"{kind} of {pair} has {epoch} at {revision}, before its beginning")
    for key in found.keys() | made.keys():
        # A lost write may be there all the same: made by an attempt on the new primary whose answer did not arrive.
        kept = [write for write in made[key] if not write[0]]
        if not len(kept) <= len(found[key]) <= len(made[key]):
            wrong.append(f"{key} is {len(found[key])} times in the feed, was acknowledged {len(made[key])} times, and "
                         f"{len(kept)} of these were not lost: {made[key]}")
        ids = {request for _, request in found[key]}
        wrong += [f"{key} has the requests {ids}, and its caller has {request_id}" for *_, request_id in kept
                  if request_id is not None and request_id not in ids]
    return wrong


def reads(history, made):
    """A read at a lost revision does not succeed, once the server is on the new primary."""
    wrong = []
    for epoch, revision, answered, reached in made:
        common = history.common(epoch, answered)
        is_later = history.epochs.get(answered, -1) >= history.epochs.get(epoch, -1)
        if epoch == answered and reached < revision or epoch != answered and (
                not is_later or common is not None and revision > common or epoch not in history.epochs):
            wrong.append(f"a read at {revision} of {epoch} was answered at {reached} of {answered}")
    return wrong


def commons(history, refusals):
    """Each WRONG_EPOCH named the last sequence that is common, and refused nothing that is valid."""
    wrong = []
    for epoch, revision, common, newest in refusals:
        if common is None or epoch not in history.epochs:
            continue
        # Before the first commit of the next epoch, the end of the feed is the last one that is common.
        expected = history.common(epoch, newest if newest != epoch else None)
        if common >= revision or expected is not None and common != expected or newest not in history.epochs:
            wrong.append(f"{revision} of {epoch} was refused with {common} in common with {newest}, not {expected}")
    return wrong


def consumers(history, reports):
    """What each consumer has is what the table has."""
    wrong = []
    for number, watcher in enumerate(watcher for report in reports for watcher in report["watchers"]):
        kinds = ["CONNECTION_CREATED"] if watcher["kinds"] else None
        expected = [event for event in history.events if not kinds or event[1] in kinds]
        if watcher["events"] != expected:
            more, missed = set(watcher["events"]) - set(expected), set(expected) - set(watcher["events"])
            wrong.append(f"watcher {number} has {len(watcher['events'])} events, and the table {len(expected)}: "
                         f"{len(missed)} are missing {sorted(missed)[:2]}, {len(more)} differ {sorted(more)[:2]}; "
                         f"it was told of {len(watcher['told'])} losses")
    return wrong
