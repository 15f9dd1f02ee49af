//! The sources of one task: who brought each, and how it did. A failure belongs to its source
//! alone.
//!
//! Nobody who brings many shuts others out: each giver has its share, and its newest stay.

use hawker_model::HostId;

use crate::{Behalf, Source, SourceMark, TaskFailure};

/// Sources kept of one giver: a host has several where several of its clients want the task.
const MOST_PER_GIVER: usize = 8;
/// Sources kept in all.
const MOST: usize = 256;
/// Failed sources that are remembered.
const MOST_REFUSED: usize = 256;

/// Who brought a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Giver {
    /// A reader of this host.
    Reader,
    /// A host that fetches through us.
    Host(HostId),
}

#[derive(Debug)]
struct Known {
    source: Source,
    mark: SourceMark,
    givers: Vec<Giver>,
    /// How often it kept us waiting.
    slow: u32,
    /// It gave bytes when it was last asked.
    works: bool,
}

/// A source that failed for good. Its credential is forgotten.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) mark: SourceMark,
    pub(crate) givers: Vec<Giver>,
    pub(crate) failure: TaskFailure,
    /// Its givers were asked for a fresh one.
    pub(crate) called_back: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Sources {
    known: Vec<Known>,
    refused: Vec<Refused>,
    /// The one asked last, and for whom.
    last: Option<(SourceMark, Behalf)>,
}

impl Known {
    fn is_readers(&self) -> bool {
        self.givers.contains(&Giver::Reader)
    }

    fn behalf(&self) -> Behalf {
        match self.is_readers() {
            true => Behalf::Reader,
            false => Behalf::Others,
        }
    }
}

impl Sources {
    /// Adds a source unless it has failed; says whether it is a new one.
    pub(crate) fn add(&mut self, source: Source, giver: Giver) -> bool {
        let mark = source.mark();
        let refused = self.refused.iter_mut().find(|other| other.mark == mark);
        if let Some(refused) = refused {
            note_giver(&mut refused.givers, giver);
            return false;
        }
        let known = self.known.iter_mut().find(|other| other.mark == mark);
        if let Some(known) = known {
            note_giver(&mut known.givers, giver);
            return false;
        }
        self.make_room(&giver);
        self.known.push(Known {
            source,
            mark,
            givers: vec![giver],
            slow: 0,
            works: false,
        });
        true
    }

    /// The oldest go that are not in use: the giver's, if it has brought many, or anyone's.
    fn make_room(&mut self, giver: &Giver) {
        let last = self.in_use();
        let of_giver = |known: &Known| known.givers.contains(giver);
        if self.known.iter().filter(|known| of_giver(known)).count() >= MOST_PER_GIVER {
            let mut known = self.known.iter_mut();
            let oldest = known.find(|known| of_giver(known) && Some(known.mark) != last);
            if let Some(oldest) = oldest {
                oldest.givers.retain(|other| other != giver);
            }
            self.known.retain(|known| !known.givers.is_empty());
        }
        if self.known.len() >= MOST
            && let Some(at) = self.known.iter().position(|known| Some(known.mark) != last)
        {
            self.known.remove(at);
        }
    }

    /// The best one to ask: one that works, else the one that kept us waiting least often.
    pub(crate) fn first(&self) -> Option<&Source> {
        self.best().map(|known| &known.source)
    }

    fn best(&self) -> Option<&Known> {
        let known = self.known.iter();
        known.min_by_key(|known| (!known.works, known.slow))
    }

    /// [`Self::first`], which from now on is the one in use, and for whom.
    pub(crate) fn take_first(&mut self) -> Option<(Source, Behalf)> {
        let known = self.best()?;
        let (source, mark, behalf) = (known.source.clone(), known.mark, known.behalf());
        self.last = Some((mark, behalf));
        Some((source, behalf))
    }

    /// The one asked last.
    pub(crate) fn in_use(&self) -> Option<SourceMark> {
        self.last.map(|(mark, _)| mark)
    }

    /// Whether the source in use was asked for other hosts alone, and a reader of ours has brought
    /// it since.
    pub(crate) fn is_readers_by_now(&self) -> bool {
        let then = self.last.map(|(_, behalf)| behalf);
        let now = self.known.iter().find(|k| Some(k.mark) == self.in_use());
        then == Some(Behalf::Others) && now.is_some_and(Known::is_readers)
    }

    /// The source in use comes before all others, if it is still known.
    pub(crate) fn prefer_last(&mut self) -> bool {
        let last = self.in_use();
        for known in &mut self.known {
            known.works = Some(known.mark) == last;
        }
        self.known.iter().any(|known| known.works)
    }

    /// Those that readers of this host brought, which seeds are told. What other hosts brought was
    /// for us.
    pub(crate) fn of_readers(&self) -> impl Iterator<Item = &Source> {
        let ours = self.known.iter().filter(|known| known.is_readers());
        ours.map(|known| &known.source)
    }

    /// One that a reader of this host brought.
    pub(crate) fn of_reader(&self, mark: &SourceMark) -> Option<&Source> {
        let ours = |known: &&Known| known.mark == *mark && known.is_readers();
        self.known.iter().find(ours).map(|known| &known.source)
    }

    /// The source in use brought bytes.
    pub(crate) fn note_bytes(&mut self) {
        if let Some(known) = self.last() {
            known.works = true;
        }
    }

    /// How often the source in use kept us waiting, if there is another to replace it.
    pub(crate) fn replaceable(&self) -> Option<u32> {
        let last = self.in_use()?;
        let known = self.known.iter().find(|known| known.mark == last)?;
        let other = self.known.iter().any(|other| other.mark != last);
        other.then_some(known.slow)
    }

    /// The source in use keeps us waiting: others come first.
    pub(crate) fn put_back(&mut self) {
        if let Some(known) = self.last() {
            known.slow += 1;
            known.works = false;
        }
    }

    fn last(&mut self) -> Option<&mut Known> {
        let last = self.in_use()?;
        self.known.iter_mut().find(|known| known.mark == last)
    }

    /// The source in use failed for good. Returns it if a reader of this host brought it.
    pub(crate) fn refuse(&mut self, failure: TaskFailure) -> Option<Source> {
        let (last, _) = self.last.take()?;
        let at = self.known.iter().position(|known| known.mark == last)?;
        let Known { source, givers, .. } = self.known.remove(at);
        let by_reader = givers.contains(&Giver::Reader);
        if self.refused.len() >= MOST_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push(Refused {
            mark: last,
            givers,
            failure,
            called_back: false,
        });
        by_reader.then_some(source)
    }

    /// Whoever brought this one has a fresh one instead.
    pub(crate) fn remove(&mut self, mark: &SourceMark) {
        self.known.retain(|known| known.mark != *mark);
    }

    /// How the source failed.
    pub(crate) fn failure_of(&self, source: &Source) -> Option<&TaskFailure> {
        let mark = source.mark();
        let refused = self.refused.iter().find(|refused| refused.mark == mark);
        refused.map(|refused| &refused.failure)
    }

    /// How the host's own sources failed, the latest.
    pub(crate) fn failure_for(&self, host: &HostId) -> Option<&TaskFailure> {
        let own = |refused: &&Refused| {
            let of_host = |giver: &Giver| matches!(giver, Giver::Host(other) if other == host);
            refused.givers.iter().any(of_host)
        };
        self.refused.iter().rfind(own).map(|r| &r.failure)
    }

    /// The latest failure.
    pub(crate) fn failure(&self) -> Option<&TaskFailure> {
        self.refused.last().map(|refused| &refused.failure)
    }

    /// The sources that failed.
    pub(crate) fn refused_mut(&mut self) -> impl Iterator<Item = &mut Refused> {
        self.refused.iter_mut()
    }

    /// Those that failed may be tried again.
    pub(crate) fn forgive(&mut self) {
        self.refused.clear();
    }

    /// Forgets all credentials. How those failed that failed is remembered.
    pub(crate) fn drop_all(&mut self) {
        self.known.clear();
        self.last = None;
    }
}

fn note_giver(givers: &mut Vec<Giver>, giver: Giver) {
    if !givers.contains(&giver) && givers.len() < MOST {
        givers.push(giver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Secret, sample};

    fn source(credential: &str) -> Source {
        Source {
            url: "https://o.example/b".into(),
            authorization: Some(Secret::new(credential)),
        }
    }

    fn giver(name: &str) -> Giver {
        Giver::Host(sample::host(name))
    }

    fn denied() -> TaskFailure {
        TaskFailure::Denied("401".into())
    }

    #[test]
    fn a_source_that_failed_is_not_taken_again_until_forgiven() {
        let mut sources = Sources::default();
        assert!(sources.add(source("a"), Giver::Reader));
        assert!(!sources.add(source("a"), Giver::Reader));
        assert!(sources.add(source("b"), Giver::Reader));
        assert_eq!(sources.take_first(), Some((source("a"), Behalf::Reader)));
        assert_eq!(sources.refuse(denied()), Some(source("a")));
        assert!(!sources.add(source("a"), Giver::Reader));
        assert_eq!(sources.failure_of(&source("a")), Some(&denied()));
        assert_eq!(sources.first(), Some(&source("b")));
        sources.forgive();
        assert!(sources.add(source("a"), Giver::Reader));
    }

    #[test]
    fn a_flood_of_sources_by_one_host_shuts_out_nobody() {
        let mut sources = Sources::default();
        assert!(sources.add(source("right"), giver("b")));
        for number in 0..1000 {
            assert!(sources.add(source(&format!("wrong {number}")), giver("a")));
        }
        assert_eq!(sources.known.len(), 1 + MOST_PER_GIVER);
        assert_eq!(sources.first(), Some(&source("right")));
        for number in 0..1000 {
            sources.add(source(&format!("{number}")), giver(&format!("h{number}")));
        }
        assert_eq!(sources.known.len(), MOST);
    }

    #[test]
    fn the_source_in_use_survives_a_flood() {
        let mut sources = Sources::default();
        assert!(sources.add(source("in use"), giver("a")));
        assert_eq!(
            sources.take_first(),
            Some((source("in use"), Behalf::Others))
        );
        for number in 0..100 {
            assert!(sources.add(source(&format!("{number}")), giver("a")));
        }
        assert!(
            sources
                .known
                .iter()
                .any(|kept| kept.source == source("in use"))
        );
    }

    #[test]
    fn a_source_that_keeps_us_waiting_gives_way_and_one_that_works_stays() {
        let mut sources = Sources::default();
        sources.add(source("hangs"), giver("a"));
        assert_eq!(
            sources.take_first(),
            Some((source("hangs"), Behalf::Others))
        );
        assert_eq!(sources.replaceable(), None);
        sources.add(source("works"), giver("b"));
        assert_eq!(sources.replaceable(), Some(0));
        sources.put_back();
        assert_eq!(
            sources.take_first(),
            Some((source("works"), Behalf::Others))
        );
        sources.note_bytes();
        sources.add(source("new"), giver("c"));
        assert_eq!(sources.first(), Some(&source("works")));
    }

    #[test]
    fn nothing_secret_is_left_when_all_are_dropped() {
        let mut sources = Sources::default();
        sources.add(source("a"), giver("a"));
        assert_eq!(sources.take_first(), Some((source("a"), Behalf::Others)));
        assert_eq!(sources.refuse(denied()), None);
        sources.add(source("b"), giver("b"));
        sources.drop_all();
        assert_eq!(sources.known.len(), 0);
        assert_eq!(
            sources.failure_for(&sample::host("a")),
            Some(&denied()),
            "why it failed is still known"
        );
    }
}
