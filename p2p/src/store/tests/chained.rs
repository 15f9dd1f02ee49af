//! Pieces written with the chain that was computed from them.

use hawker_model::{Chain, PieceIndex, SignedStates};

use super::{BlobFile, Content, open};
use crate::store::WritePieceError;

const PIECE: usize = 64 << 10;

/// Writes `data` with `chain`, and signs what is new like the list's own signer.
fn write(
    blob: &BlobFile,
    chain: &mut Chain,
    data: &[u8],
) -> Result<Option<SignedStates>, WritePieceError> {
    blob.write_chained(chain, data, |first, states| SignedStates {
        first,
        states,
        origin: None,
        signer: (*b"a certificate").into(),
        signature: b"a signature".to_vec(),
    })
}

#[test]
fn what_is_not_known_of_the_chain_is_signed_and_the_rest_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, 5 * PIECE + 7));
    let blob = store.create(content.task, content.geometry).unwrap();
    blob.add_batch(content.batch(0..2)).unwrap();
    let mut chain = Chain::new(content.geometry);
    assert_eq!(write(&blob, &mut chain, content.piece(0)).unwrap(), None);
    let batch = write(&blob, &mut chain, &content.data[PIECE..4 * PIECE]).unwrap();
    assert_eq!(batch, Some(content.batch(2..4)));
    let batch = write(&blob, &mut chain, &content.data[4 * PIECE..]).unwrap();
    assert_eq!(batch, Some(content.batch(4..6)));
    assert!(blob.is_complete() && blob.finish().unwrap());
    assert_eq!(content.verify(&blob), 6);
}

#[test]
fn bytes_that_contradict_the_list_or_the_digest_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(2, 3 * PIECE));
    let other = Content::new(3, 3 * PIECE);
    let blob = store.create(content.task, content.geometry).unwrap();
    blob.add_batch(content.batch(0..1)).unwrap();
    let mut wrong = other.data[..PIECE].to_vec();
    let error = write(&blob, &mut Chain::new(content.geometry), &wrong).unwrap_err();
    assert!(error.is_rejection(), "{error}");
    // Right at first, but not to the end.
    wrong = [&content.data[..PIECE], &other.data[PIECE..]].concat();
    let error = write(&blob, &mut Chain::new(content.geometry), &wrong).unwrap_err();
    assert!(error.is_rejection(), "{error}");
    // No whole pieces; more than there are.
    for data in [&content.data[..5], &[&content.data[..], &[0]].concat()] {
        let error = write(&blob, &mut Chain::new(content.geometry), data).unwrap_err();
        assert!(error.is_rejection(), "{error}");
    }
    assert!(blob.pieces().is_empty());
}

#[test]
fn a_chain_that_does_not_come_from_the_list_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(4, 3 * PIECE));
    let blob = store.create(content.task, content.geometry).unwrap();
    blob.add_batch(content.batch(0..1)).unwrap();
    for (next, before) in [(1, 1), (2, 1)] {
        let (next, before) = (PieceIndex(next), content.states[before]);
        let mut chain = Chain::resume(content.geometry, next, before);
        let error = write(&blob, &mut chain, content.piece(next.0)).unwrap_err();
        assert!(
            matches!(error, WritePieceError::UnknownState { .. }),
            "{error}"
        );
    }
    let geometry = Content::new(5, 2 * PIECE).geometry;
    let error = write(&blob, &mut Chain::new(geometry), content.piece(0)).unwrap_err();
    assert!(!error.is_rejection(), "{error}");
    assert!(blob.pieces().is_empty());
}
