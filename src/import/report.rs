//! What became of the rows, in numbers and by reason.

use std::collections::BTreeMap;
use std::fmt;

use crate::domain::id::{Sequence, UserId};
use crate::domain::import::{Effect, Loss, RULE};
use crate::transfer::{Kind, Reason};

/// The number of lines that a report names for each reason, and of users for a warning.
const NAMED: usize = 10;

/// The place of a row: the number of its file, and of its line in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place(pub(super) u64);

/// The bits of a place that are the line.
const LINE_BITS: u32 = 40;

impl Place {
    pub(super) fn new(file: usize, line: u64) -> Self {
        Self((file as u64) << LINE_BITS | line)
    }

    pub(super) fn file(self) -> usize {
        (self.0 >> LINE_BITS) as usize
    }

    pub(super) fn line(self) -> u64 {
        self.0 & ((1 << LINE_BITS) - 1)
    }
}

/// The numbers of rows of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows that were read.
    pub rows: u64,
    /// Rows that are new to the database.
    pub created: u64,
    /// Rows that the database had already.
    pub unchanged: u64,
    /// Rows that replaced what the database had.
    pub replaced: u64,
    /// Rows that were refused.
    pub refused: u64,
}

/// The rows that were refused for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Refused {
    /// Their number.
    rows: u64,
    /// The first of them, in the order of the files and lines.
    first: Vec<Place>,
    /// What was wrong with the first of them.
    detail: String,
}

/// What became of the rows of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The names of the files.
    files: Vec<String>,
    /// The revision afterwards.
    pub revision: Sequence,
    /// Whether nothing was stored.
    pub dry_run: bool,
    tallies: BTreeMap<Kind, Tally>,
    unreadable: u64,
    refused: BTreeMap<Reason, Refused>,
    /// Rows without a date, which was made up.
    pub made_up: u64,
    /// Pending requests that begin now, because they would have expired.
    pub renewed: u64,
    /// Users who were not in the files.
    pub placeholders: u64,
    /// The users who have more connections than the limit: their number, and the first of them.
    full: (u64, Vec<UserId>),
}

impl Report {
    /// Creates one of these files, without rows.
    pub(super) fn of_files(files: Vec<String>) -> Self {
        Self { files, ..Self::default() }
    }

    /// Returns the numbers of a type.
    pub fn tally(&self, kind: Kind) -> Tally {
        self.tallies.get(&kind).copied().unwrap_or_default()
    }

    pub(super) fn of(&mut self, kind: Kind) -> &mut Tally {
        self.tallies.entry(kind).or_default()
    }

    /// Returns the number of rows that were refused for a reason.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused.get(&reason).map_or(0, |refused| refused.rows)
    }

    /// Whether any row was refused.
    pub fn has_refusals(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Counts a refused row. `kind`: `None` if its type is not known.
    pub(super) fn refuse(&mut self, kind: Option<Kind>, place: Place, reason: Reason, detail: &str) {
        match kind {
            Some(kind) => self.of(kind).refused += 1,
            None => self.unreadable += 1,
        }
        let refused = self.refused.entry(reason).or_default();
        refused.rows += 1;
        let at = refused.first.partition_point(|first| *first < place);
        if at == 0 {
            detail.clone_into(&mut refused.detail);
        }
        if at < NAMED {
            refused.first.insert(at, place);
            refused.first.truncate(NAMED);
        }
    }

    /// Counts a row that was not refused.
    pub(super) fn count(&mut self, kind: Kind, effect: Effect) {
        let tally = self.of(kind);
        match effect {
            Effect::Created => tally.created += 1,
            Effect::Unchanged => tally.unchanged += 1,
            Effect::Replaced => tally.replaced += 1,
            Effect::Conflict | Effect::Blocked => {}
        }
    }

    /// Counts a user beyond the limit of connections.
    pub(super) fn warn_full(&mut self, user: UserId) {
        let (users, first) = &mut self.full;
        *users += 1;
        if first.len() < NAMED {
            first.push(user);
        }
    }

    /// Returns the reasons for which rows were refused, each with the first lines.
    pub(super) fn reasons(&self) -> String {
        let mut text = String::new();
        for (reason, refused) in &self.refused {
            text += &format!("refused: {} {}: {}\n", refused.rows, reason.name(), self.lines(refused));
            if !refused.detail.is_empty() {
                text += &format!("         the first: {}\n", refused.detail);
            }
        }
        text
    }

    fn lines(&self, refused: &Refused) -> String {
        let mut text = String::new();
        let mut file = None;
        for place in &refused.first {
            if file != Some(place.file()) {
                let name = self.files.get(place.file()).map_or("", String::as_str);
                text += &format!("{}{name} line {}", if file.is_some() { "; " } else { "" }, place.line());
                file = Some(place.file());
            } else {
                text += &format!(", {}", place.line());
            }
        }
        if refused.rows > refused.first.len() as u64 { text + ", …" } else { text }
    }
}

/// Returns the reason for a row that another one outweighs.
pub(super) fn reason_of(loss: Loss) -> Reason {
    match loss {
        Loss::Duplicate => Reason::DuplicatePair,
        Loss::Conflicting => Reason::ConflictingState,
        Loss::Blocked => Reason::Blocked,
    }
}

/// The report as text: a table of the types, and the reasons with the first lines of each.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["rows", "created", "unchanged", "replaced", "refused"];
        writeln!(f, "{:<12}{}", "", heads.map(|head| format!("{head:>12}")).concat())?;
        for kind in Kind::ALL {
            let Tally { rows, created, unchanged, replaced, refused } = self.tally(kind);
            let numbers = [rows, created, unchanged, replaced, refused].map(|number| format!("{number:>12}"));
            writeln!(f, "{:<12}{}", kind.plural(), numbers.concat())?;
        }
        if self.unreadable > 0 {
            writeln!(f, "{:<12}{:>12}{:>48}", "unreadable", self.unreadable, self.unreadable)?;
        }
        f.write_str(&self.reasons())?;
        let settled = [Reason::DuplicatePair, Reason::ConflictingState, Reason::Blocked];
        if settled.iter().any(|reason| self.refused(*reason) > 0) {
            writeln!(f, "rule: {RULE}")?;
        }
        if let (users @ 1.., first) = &self.full {
            let first = first.iter().map(UserId::to_string).collect::<Vec<_>>().join(", ");
            let more = if *users > NAMED as u64 { ", …" } else { "" };
            writeln!(f, "warning: {users} LIMIT_REACHED: users with more connections than the limit: {first}{more}")?;
        }
        for (number, what) in [
            (self.made_up, "rows without a date, which was made up"),
            (self.renewed, "pending requests that begin now, because they would have expired"),
            (self.placeholders, "users made for rows that name them, with the status UNREGISTERED"),
        ] {
            if number > 0 {
                writeln!(f, "note: {number} {what}")?;
            }
        }
        let verdict = match (self.dry_run, self.has_refusals()) {
            (true, _) => "dry run; nothing was stored",
            (false, true) => "imported with refusals",
            (false, false) => "imported",
        };
        writeln!(f, "{verdict}; revision {}", self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_file_and_a_line() {
        let place = Place::new(3, 5_000_000_000);
        assert_eq!((place.file(), place.line()), (3, 5_000_000_000));
        assert!(Place::new(0, 9) < Place::new(1, 1));
    }

    #[test]
    fn a_report_names_reasons_and_first_lines() {
        let mut report = Report { files: vec!["a.ndjson".into(), "b.ndjson".into()], ..Report::default() };
        *report.of(Kind::Connection) = Tally { rows: 20, created: 1, ..Tally::default() };
        for line in (1..=12).rev() {
            report.refuse(Some(Kind::Connection), Place::new(0, line), Reason::UserNotFound, &format!("of {line}"));
        }
        report.refuse(None, Place::new(1, 7), Reason::UnknownType, "");
        report.refuse(Some(Kind::Connection), Place::new(1, 7), Reason::DuplicatePair, "");
        report.refuse(Some(Kind::Connection), Place::new(0, 9), Reason::DuplicatePair, "");
        report.count(Kind::Block, Effect::Unchanged);
        report.made_up = 2;
        report.warn_full(UserId::new(17));
        report.revision = Sequence::new(9);
        let expected = format!(
            "                    rows     created   unchanged    replaced     refused\n\
             users                  0           0           0           0           0\n\
             connections           20           1           0           0          14\n\
             requests               0           0           0           0           0\n\
             blocks                 0           0           1           0           0\n\
             unreadable             1                                               1\n\
             refused: 1 UNKNOWN_TYPE: b.ndjson line 7\n\
             refused: 12 USER_NOT_FOUND: a.ndjson line 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …\n\
             {}the first: of 1\n\
             refused: 2 DUPLICATE_PAIR: a.ndjson line 9; b.ndjson line 7\n\
             rule: {RULE}\n\
             warning: 1 LIMIT_REACHED: users with more connections than the limit: 17\n\
             note: 2 rows without a date, which was made up\n\
             imported with refusals; revision 9\n",
            " ".repeat(9)
        );
        assert_eq!(report.to_string(), expected);
        assert_eq!((report.refused(Reason::UserNotFound), report.has_refusals()), (12, true));
    }
}
