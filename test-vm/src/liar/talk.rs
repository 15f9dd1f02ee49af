//! A liar's side of one connection.

use std::sync::Arc;

use hawker_model::{HostId, PieceIndex, PieceSet};
use hawker_p2p::{Connection, FrameReader, FrameWriter, WireError};
use hawker_swarm::{Envelope, Message};

use super::{Kind, Tale};

/// Messages of a flood before it looks whether anybody still listens.
const GUSH: u32 = 512;

/// One victim.
pub(super) struct Talk {
    tale: Arc<Tale>,
    victim: HostId,
    reader: FrameReader,
    writer: FrameWriter,
    /// The next piece for those who leave the choice to us.
    next: u32,
    given: u64,
    said: u64,
}

impl Talk {
    pub(super) fn new(tale: Arc<Tale>, connection: Connection) -> Self {
        let Connection {
            peer,
            reader,
            writer,
        } = connection;
        Self {
            tale,
            victim: peer.host,
            reader,
            writer,
            next: 0,
            given: 0,
            said: 0,
        }
    }

    /// Until the victim hangs up.
    pub(super) async fn run(mut self) {
        let why = match self.talk().await {
            Ok(()) => self.reader.goodbye().unwrap_or("goodbye").to_owned(),
            Err(error) => error.to_string(),
        };
        println!(
            "{} hung up after {} pieces, {} messages: {why}",
            self.victim, self.given, self.said
        );
    }

    async fn talk(&mut self) -> Result<(), WireError> {
        loop {
            let envelope = tokio::select! {
                envelope = self.reader.next() => envelope?,
                () = self.writer.keep_alive() => {
                    self.writer.flush().await?;
                    continue;
                }
            };
            let Some(envelope) = envelope else {
                return Ok(());
            };
            if envelope.task == self.tale.task() {
                self.hear(envelope.message).await?;
                self.writer.flush().await?;
            }
        }
    }

    async fn hear(&mut self, message: Message) -> Result<(), WireError> {
        match message {
            Message::Join { .. } => self.introduce().await,
            Message::Request { piece } => self.give(piece).await,
            Message::RequestAny { credit } => {
                for _ in 0..credit {
                    let piece = self.next % self.tale.geometry().piece_count();
                    self.next += 1;
                    self.give(PieceIndex(piece)).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tells everything, as an honest host does.
    async fn introduce(&mut self) -> Result<(), WireError> {
        let geometry = self.tale.geometry();
        let pieces = PieceSet::full(geometry.piece_count());
        let batch = self.tale.list();
        self.say(Message::Join { source: None }).await?;
        self.say(Message::Head { geometry }).await?;
        self.say(Message::List { batch }).await?;
        self.say(Message::Have { pieces }).await?;
        if self.tale.kind() == Kind::Flood {
            self.writer.flush().await?;
            return self.flood().await;
        }
        Ok(())
    }

    async fn give(&mut self, piece: PieceIndex) -> Result<(), WireError> {
        let Some(message) = self.tale.answer(piece) else {
            return Ok(());
        };
        if matches!(message, Message::Piece { .. }) {
            self.given += 1;
            println!("{} was given {}", self.victim, self.given);
        }
        self.say(message).await
    }

    /// Whatever costs little to say and something to hear, until nobody hears it.
    async fn flood(&mut self) -> Result<(), WireError> {
        let count = self.tale.geometry().piece_count();
        for number in 0.. {
            let piece = PieceIndex(number % count);
            self.say(Message::Request { piece }).await?;
            self.say(Message::Gained {
                pieces: vec![piece],
            })
            .await?;
            self.say(Message::Cancel { piece }).await?;
            if number.is_multiple_of(GUSH) {
                self.writer.flush().await?;
                println!("{} was told {}", self.victim, self.said);
            }
        }
        Ok(())
    }

    async fn say(&mut self, message: Message) -> Result<(), WireError> {
        self.said += 1;
        let task = self.tale.task();
        self.writer.feed(&Envelope { task, message }).await
    }
}
