//! The community of `kith demo`: who is in it, and what they do, in order.
//!
//! Nothing here is random: the same generator makes the same community each time.

use std::collections::BTreeSet;

use super::names::{BIOS, FIRST, LAST, MESSAGES, PLACES, REPLIES};

/// The number of users.
pub(super) const PEOPLE: usize = 200;
/// The number of equal spans in which everything happens.
pub(super) const SPANS: usize = 200;
/// The spans at the end in which no request is sent that will be answered.
const LAST_SPANS: usize = 12;
/// The number of blocks.
const BLOCKS: usize = 12;
/// The users that a moderator blocked, and those that did not register. They have no connections.
pub(super) const BLOCKED: [usize; 2] = [57, 133];
pub(super) const UNREGISTERED: [usize; 3] = [80, 151, 199];
/// One of this many users sends many requests.
const BUSY: usize = 20;

/// A member, by their place in the order in which they joined.
pub(super) type Member = usize;

/// What a member does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// The member joins.
    Join(Member),
    /// The first asks the second to connect.
    Send(Member, Member, &'static str),
    /// The second reads the request of the first.
    View(Member, Member),
    /// The second accepts the request of the first.
    Accept(Member, Member, &'static str),
    /// The second rejects the request of the first.
    Reject(Member, Member),
    /// The second accepts after all.
    Restore(Member, Member),
    /// The first cancels the request to the second.
    Cancel(Member, Member),
    /// The first ends the connection with the second.
    Remove(Member, Member),
    /// The first blocks the second.
    Block(Member, Member),
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) username: String,
    pub(super) real_name: String,
    pub(super) email: String,
    pub(super) location: &'static str,
    pub(super) bio: &'static str,
}

/// Returns the profile of a member. The first two are `ann` and `bob`.
pub(super) fn person(member: Member) -> Person {
    let first = FIRST[member % FIRST.len()];
    // Each pair of names comes about once.
    let last = LAST[(member * 7 + member / FIRST.len()) % LAST.len()];
    let username = match member {
        0 | 1 => first.to_lowercase(),
        _ => format!("{}_{}", first.to_lowercase(), last.to_lowercase()),
    };
    Person {
        email: format!("{}@example.com", username.replace('_', ".")),
        username,
        real_name: format!("{first} {last}"),
        location: PLACES[member * 5 % PLACES.len()],
        bio: if member.is_multiple_of(3) { BIOS[member / 3 % BIOS.len()] } else { "" },
    }
}

/// Returns what happens in each span, in order.
pub(super) fn acts() -> Vec<Vec<Act>> {
    let mut plan = Plan::new();
    for member in 0..PEOPLE {
        plan.add(joined(member), Act::Join(member));
    }
    for member in (0..PEOPLE).filter(|member| takes_part(*member)) {
        let sends = 2 + plan.random.below(4) + if member.is_multiple_of(BUSY) { 20 } else { 0 };
        for _ in 0..sends {
            plan.request(member);
        }
    }
    for _ in 0..BLOCKS {
        plan.block();
    }
    plan.spans
}

/// Two members a span join, until half of the time is over.
fn joined(member: Member) -> usize {
    member / 2
}

fn takes_part(member: Member) -> bool {
    !BLOCKED.contains(&member) && !UNREGISTERED.contains(&member)
}

/// The community as far as it is made up.
struct Plan {
    random: Random,
    spans: Vec<Vec<Act>>,
    /// Pairs that had a request, the lower member first.
    pairs: BTreeSet<(Member, Member)>,
    friends: Vec<Vec<Member>>,
    /// Each member as often as they have connections: who has many gets more.
    popular: Vec<Member>,
}

impl Plan {
    fn new() -> Self {
        Self {
            random: Random(0x6b69_7468),
            spans: vec![Vec::new(); SPANS],
            pairs: BTreeSet::new(),
            friends: vec![Vec::new(); PEOPLE],
            popular: Vec::new(),
        }
    }

    fn add(&mut self, span: usize, act: Act) {
        self.spans[span].push(act);
    }

    /// Lets a member send a request, and makes up what becomes of it.
    fn request(&mut self, from: Member) {
        let first = joined(from) + 1;
        let sent = first + self.random.below(SPANS - LAST_SPANS - first);
        let Some(to) = self.target(from, sent) else { return };
        let message = if self.random.below(2) == 0 { *self.random.of(&MESSAGES) } else { "" };
        self.add(sent, Act::Send(from, to, message));
        let answered = sent + 1 + self.random.below(LAST_SPANS - 2);
        match self.random.below(100) {
            0..70 => self.accept(answered, from, to),
            // Nobody has read it yet.
            70..79 => {}
            // Read and ignored.
            79..86 => self.add(answered, Act::View(from, to)),
            86..92 => self.add(answered, Act::Reject(from, to)),
            92..95 => {
                self.add(sent + 1, Act::Reject(from, to));
                self.add(answered + 1, Act::Restore(from, to));
            }
            95..98 => self.add(answered, Act::Cancel(from, to)),
            _ => {
                self.add(answered, Act::Accept(from, to, ""));
                let (user, other) = if answered.is_multiple_of(2) { (from, to) } else { (to, from) };
                self.add(answered + 1, Act::Remove(user, other));
            }
        }
    }

    fn accept(&mut self, span: usize, from: Member, to: Member) {
        let reply = if self.random.below(4) == 0 { *self.random.of(&REPLIES) } else { "" };
        self.add(span, Act::Accept(from, to, reply));
        self.friends[from].push(to);
        self.friends[to].push(from);
        self.popular.extend([from, to]);
    }

    /// Finds somebody to send a request to: a friend of a friend, somebody popular, or anybody.
    fn target(&mut self, from: Member, span: usize) -> Option<Member> {
        for _ in 0..20 {
            let to = match (self.random.below(10), self.friends[from].is_empty(), self.popular.is_empty()) {
                (0..5, false, _) => {
                    let friend = *self.random.of(&self.friends[from]);
                    *self.random.of(&self.friends[friend])
                }
                (0..8, _, false) => *self.random.of(&self.popular),
                _ => self.random.below(PEOPLE),
            };
            let has_joined = joined(to) < span;
            if to != from && has_joined && takes_part(to) && self.pairs.insert((from.min(to), from.max(to))) {
                return Some(to);
            }
        }
        None
    }

    /// Lets a member block another, who may then send a request that is silenced.
    fn block(&mut self) {
        let user = self.random.below(PEOPLE);
        if !takes_part(user) {
            return;
        }
        let span = SPANS - 3;
        if self.random.below(2) == 0 && !self.friends[user].is_empty() {
            let friend = *self.random.of(&self.friends[user]);
            self.add(span, Act::Block(user, friend));
        } else if let Some(other) = self.target(user, span) {
            self.add(span, Act::Block(user, other));
            self.add(span + 1, Act::Send(other, user, "Why do you not answer?"));
        }
    }
}

/// A generator of numbers that are the same each time: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below another one, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(1).max(1);
        usize::try_from(self.next() % limit).unwrap_or_default()
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_has_the_name_of_another() {
        let names: BTreeSet<String> = (0..PEOPLE).map(|member| person(member).username).collect();
        assert_eq!(names.len(), PEOPLE);
        assert_eq!((&*person(0).username, &*person(1).username), ("ann", "bob"));
    }

    #[test]
    fn it_is_the_same_community_each_time_and_a_few_know_many() {
        let acts = acts();
        assert_eq!(acts, super::acts());
        let mut degrees = [0; PEOPLE];
        for act in acts.iter().flatten() {
            if let Act::Accept(from, to, _) = act {
                degrees[*from] += 1;
                degrees[*to] += 1;
            }
        }
        degrees.sort_unstable();
        let (median, most) = (degrees[PEOPLE / 2], degrees[PEOPLE - 1]);
        assert!(median >= 3 && most > 5 * median, "median {median}, most {most}");
    }
}
