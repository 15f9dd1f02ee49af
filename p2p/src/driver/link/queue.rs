//! What waits to be sent on one connection: words, and pieces, which go when no word waits. Requests
//! and news that stood behind pieces would come when they are of no use any more.
//!
//! A word never comes after a piece that was given after it: a piece is dropped by whoever does not
//! know its chain value yet.

use std::{
    iter,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::mpsc;

/// What may wait for a peer before it counts as too slow to be one.
const MOST: usize = 16 << 10;
/// Words that are sent together.
const BATCH: usize = 64;

/// An empty queue of words `W` and pieces `P`.
pub(super) fn queue<W, P>() -> (Sender<W, P>, Receiver<W, P>) {
    let (words, words_said) = mpsc::unbounded_channel();
    let (pieces, pieces_given) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let sender = Sender {
        words,
        pieces,
        waiting: Arc::clone(&waiting),
    };
    let receiver = Receiver {
        words: words_said,
        pieces: pieces_given,
        waiting,
    };
    (sender, receiver)
}

/// Where things are queued; nothing of it waits.
#[derive(Debug)]
pub(super) struct Sender<W, P> {
    words: mpsc::UnboundedSender<W>,
    pieces: mpsc::UnboundedSender<P>,
    waiting: Arc<AtomicUsize>,
}

impl<W, P> Sender<W, P> {
    /// Whether as much waits as may.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Relaxed) >= MOST
    }

    /// Says whether somebody is there who takes it, as does [`Self::give`].
    pub(super) fn say(&self, word: W) -> bool {
        self.waiting.fetch_add(1, Relaxed);
        self.words.send(word).is_ok()
    }

    pub(super) fn give(&self, piece: P) -> bool {
        self.waiting.fetch_add(1, Relaxed);
        self.pieces.send(piece).is_ok()
    }
}

/// Where they are taken from.
#[derive(Debug)]
pub(super) struct Receiver<W, P> {
    words: mpsc::UnboundedReceiver<W>,
    pieces: mpsc::UnboundedReceiver<P>,
    waiting: Arc<AtomicUsize>,
}

/// What is to be sent next: the words, and after them the piece. One of them there is.
#[derive(Debug)]
pub(super) struct Next<W, P> {
    pub(super) words: Vec<W>,
    pub(super) piece: Option<P>,
}

impl<W, P> Receiver<W, P> {
    /// Waits for something to send; nothing once the sender is gone and its words are taken.
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Next<W, P>> {
        let mut words = Vec::new();
        let piece = tokio::select! {
            biased;
            _ = self.words.recv_many(&mut words, BATCH) => None,
            Some(piece) = self.pieces.recv() => {
                // No word waited when it was looked for, but the one before this piece may since.
                words.extend(iter::from_fn(|| self.words.try_recv().ok()));
                Some(piece)
            }
        };
        let taken = words.len() + usize::from(piece.is_some());
        self.waiting.fetch_sub(taken, Relaxed);
        (taken > 0).then_some(Next { words, piece })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
        thread,
    };

    use super::*;

    #[tokio::test]
    async fn words_go_before_pieces_that_wait() {
        let (sender, mut receiver) = queue();
        sender.give(1);
        sender.say("one");
        sender.say("two");
        let next = receiver.next().await.unwrap();
        assert_eq!((next.words, next.piece), (vec!["one", "two"], None));
        let next = receiver.next().await.unwrap();
        assert_eq!((next.words, next.piece), (vec![], Some(1)));
    }

    #[tokio::test]
    async fn what_was_said_is_taken_when_the_sender_is_gone() {
        let (sender, mut receiver) = queue();
        sender.say("good-bye");
        sender.give(1);
        drop(sender);
        assert_eq!(receiver.next().await.unwrap().words, ["good-bye"]);
        assert!(receiver.next().await.is_none());
    }

    #[tokio::test]
    async fn queue_is_full_until_something_is_taken() {
        let (sender, mut receiver) = queue();
        (0..MOST).for_each(|number| {
            assert!(!sender.is_full());
            match number % 2 {
                0 => sender.say(number),
                _ => sender.give(number),
            };
        });
        assert!(sender.is_full());
        receiver.next().await.unwrap();
        assert!(!sender.is_full());
    }

    /// They are queued and looked for at the same moment, over and over.
    #[test]
    fn what_is_said_before_a_piece_goes_before_it() {
        const ROUNDS: usize = 100_000;
        let (sender, mut receiver) = queue();
        let saying = thread::spawn(move || {
            for number in 0..ROUNDS {
                sender.say(number);
                sender.give(number);
                while sender.waiting.load(Relaxed) > 0 && !sender.words.is_closed() {
                    thread::yield_now();
                }
            }
        });
        let (mut said, mut given) = (None, 0);
        while given < ROUNDS {
            let next = pin!(receiver.next()).poll(&mut Context::from_waker(Waker::noop()));
            let Poll::Ready(next) = next else {
                thread::yield_now();
                continue;
            };
            let Next { words, piece } = next.unwrap();
            said = words.last().copied().or(said);
            if let Some(piece) = piece {
                assert_eq!(said, Some(piece));
                given += 1;
            }
        }
        saying.join().unwrap();
    }
}
