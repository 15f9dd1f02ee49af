//! The service as containerd's metadata layer calls it.

use std::collections::HashMap;

use containerd_client::services::v1::{
    Info as InfoMessage, WriteAction, WriteContentRequest, WriteContentResponse,
};
use futures::{StreamExt, stream};
use hawker_model::Digest;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::content::tests::{Bed, NOWHERE, temp};

struct Served {
    service: ContentService,
    _bed: Bed,
    _dir: TempDir,
}

impl Served {
    async fn start() -> Self {
        let dir = temp();
        let bed = Bed::open(dir.path(), NOWHERE).await;
        Self {
            service: ContentService::new(bed.store.clone(), ContentMetrics::default()),
            _bed: bed,
            _dir: dir,
        }
    }

    /// What one client is answered.
    async fn write(
        &self,
        requests: Vec<WriteContentRequest>,
    ) -> Vec<Result<WriteContentResponse, Status>> {
        let session = Session::new(self.service.store.clone(), ContentMetrics::default());
        let requests = stream::iter(requests.into_iter().map(Ok));
        session.answers(requests).collect().await
    }

    async fn put(&self, reference: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let commit = WriteContentRequest {
            total: bytes.len() as i64,
            expected: digest.to_string(),
            ..request(WriteAction::Commit, reference, 0, bytes)
        };
        let answers = self.write(vec![commit]).await;
        assert_eq!(answers[0].as_ref().unwrap().digest, digest.to_string());
        digest
    }

    async fn info(&self, digest: &str) -> Result<InfoMessage, Code> {
        let request = InfoRequest {
            digest: digest.to_owned(),
        };
        let info = self.service.info(Request::new(request)).await;
        let info = info.map_err(|status| status.code())?;
        Ok(info.into_inner().info.unwrap())
    }

    async fn read(&self, digest: &Digest, offset: i64, size: i64) -> Result<Vec<u8>, Code> {
        let request = ReadContentRequest {
            digest: digest.to_string(),
            offset,
            size,
        };
        let read = self.service.read(Request::new(request)).await;
        let mut parts = read.map_err(|status| status.code())?.into_inner();
        let mut all = Vec::new();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|status| status.code())?;
            assert_eq!(part.offset, offset.max(0) + all.len() as i64);
            all.extend(part.data);
        }
        Ok(all)
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<String>, Code> {
        let filters = filters.iter().map(|text| (*text).to_owned()).collect();
        let list = self
            .service
            .list(Request::new(ListContentRequest { filters }));
        let mut pages = list.await.map_err(|status| status.code())?.into_inner();
        let mut all = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.unwrap().info;
            assert!((1..=PAGE_LEN).contains(&page.len()));
            all.extend(page.into_iter().map(|info| info.digest));
        }
        Ok(all)
    }
}

fn request(action: WriteAction, reference: &str, offset: i64, data: &[u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: reference.to_owned(),
        offset,
        data: data.to_vec(),
        ..WriteContentRequest::default()
    }
}

fn code(answer: &Result<WriteContentResponse, Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_to_a_write_tells_offset_and_digest() {
    let served = Served::start().await;
    let answers = served
        .write(vec![
            WriteContentRequest {
                total: 6,
                ..request(WriteAction::Stat, "a", 0, b"")
            },
            request(WriteAction::Write, "", 0, b"abc"),
            request(WriteAction::Stat, "", 0, b""),
            request(WriteAction::Write, "", 3, b"def"),
            request(WriteAction::Commit, "", 6, b""),
            request(WriteAction::Stat, "", 0, b""),
        ])
        .await;
    let told: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let digests = ["", "abc", "abc", "abcdef", "abcdef"].map(|text| Digest::of(text.as_bytes()));
    assert_eq!(told.len(), 5, "the commit is the last word");
    for (answer, digest) in told.iter().zip(digests) {
        assert_eq!(answer.digest, digest.to_string());
        assert_eq!(answer.total, 6);
        assert!(answer.started_at.is_some() && answer.updated_at.is_some());
    }
    let offsets: Vec<_> = told.iter().map(|answer| answer.offset).collect();
    assert_eq!(offsets, [0, 3, 3, 6, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stat_of_what_exists_is_no_error_and_its_commit_says_that_it_exists() {
    let served = Served::start().await;
    let digest = served.put("a", b"abc").await;
    let expecting = |action, offset, data| WriteContentRequest {
        expected: digest.to_string(),
        total: 3,
        ..request(action, "b", offset, data)
    };
    let answers = served
        .write(vec![
            expecting(WriteAction::Stat, 0, b""),
            expecting(WriteAction::Write, 0, b"abc"),
            expecting(WriteAction::Commit, 3, b""),
        ])
        .await;
    let codes: Vec<_> = answers.iter().map(code).collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::AlreadyExists]);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_reference_is_unavailable_until_its_client_goes() {
    let served = Served::start().await;
    let session = Session::new(served.service.store.clone(), ContentMetrics::default());
    let first = request(WriteAction::Write, "a", 0, b"abc");
    let requests = stream::iter([Ok(first)]).chain(stream::pending());
    let mut answers = session.answers(requests.boxed()).boxed();
    assert_eq!(answers.next().await.unwrap().unwrap().offset, 3);
    let stat = || vec![request(WriteAction::Stat, "a", 0, b"")];
    assert_eq!(code(&served.write(stat()).await[0]), Code::Unavailable);
    drop(answers);
    let answers = served.write(stat()).await;
    assert_eq!(answers[0].as_ref().unwrap().offset, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_at_the_offset_or_begin_anew() {
    let served = Served::start().await;
    let write = |offset, data| request(WriteAction::Write, "a", offset, data);
    for wrong in [2, 4, -1, i64::MAX] {
        let answers = served
            .write(vec![write(0, b"abc"), write(wrong, b"x")])
            .await;
        assert_eq!(code(&answers[1]), Code::OutOfRange, "@{wrong}");
    }
    let answers = served.write(vec![write(0, b"xy")]).await;
    let answer = answers[0].as_ref().unwrap();
    assert_eq!(answer.digest, Digest::of(b"xy").to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_of_another_size_or_digest_fails_and_none_without_a_name() {
    let served = Served::start().await;
    let commit = |total, expected: String| WriteContentRequest {
        total,
        expected,
        ..request(WriteAction::Commit, "a", 0, b"abc")
    };
    let other = Digest::of(b"other").to_string();
    let sha512 = format!("sha512:{}", "0".repeat(128));
    for (commit, wanted) in [
        (commit(4, String::new()), Code::FailedPrecondition),
        (commit(0, other), Code::FailedPrecondition),
        (commit(0, "nonsense".to_owned()), Code::InvalidArgument),
        (commit(0, sha512), Code::Unimplemented),
        (
            request(WriteAction::Commit, "", 0, b"x"),
            Code::InvalidArgument,
        ),
        (commit(3, String::new()), Code::Ok),
    ] {
        assert_eq!(code(&served.write(vec![commit]).await[0]), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_read_cut_to_the_length_and_not_beyond_it() {
    let served = Served::start().await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
    let digest = served.put("a", &bytes).await;
    for (offset, size, wanted) in [
        (0, 0, 0..bytes.len()),
        (-5, -5, 0..bytes.len()),
        (10, 5, 10..15),
        (2_999_999, 100, 2_999_999..bytes.len()),
        (3_000_000, 1, bytes.len()..bytes.len()),
        (1, i64::MAX, 1..bytes.len()),
    ] {
        let read = served.read(&digest, offset, size).await.unwrap();
        assert!(read == bytes[wanted], "{offset} {size}");
    }
    assert_eq!(
        served.read(&digest, 3_000_001, 0).await,
        Err(Code::OutOfRange)
    );
    let unknown = Digest::of(b"unknown");
    assert_eq!(served.read(&unknown, 0, 0).await, Err(Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_of_what_any_filter_takes() {
    let served = Served::start().await;
    let mut digests = Vec::new();
    for i in 0..230u32 {
        digests.push(
            served
                .put(&i.to_string(), &i.to_le_bytes())
                .await
                .to_string(),
        );
    }
    digests.sort();
    assert_eq!(served.list(&[]).await.unwrap(), digests);
    let (one, other) = (&digests[3], &digests[200]);
    let update = UpdateRequest {
        info: Some(InfoMessage {
            digest: other.clone(),
            labels: HashMap::from([("a.b/c".to_owned(), "x".to_owned())]),
            ..InfoMessage::default()
        }),
        update_mask: None,
    };
    served.service.update(Request::new(update)).await.unwrap();
    let filters = [format!("digest=={one}"), "labels.\"a.b/c\"".to_owned()];
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    assert_eq!(
        served.list(&filters).await.unwrap(),
        [one.clone(), other.clone()]
    );
    assert_eq!(
        served.list(&["size==1"]).await.unwrap(),
        Vec::<String>::new()
    );
    assert_eq!(served.list(&["=="]).await, Err(Code::InvalidArgument));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_deleted_and_aborted_without_an_error() {
    let served = Served::start().await;
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let delete = |digest: String| {
        let request = DeleteContentRequest { digest };
        served.service.delete(Request::new(request))
    };
    delete(Digest::of(b"x").to_string()).await.unwrap();
    delete(sha512.clone()).await.unwrap();
    let odd = delete("odd".to_owned()).await.unwrap_err();
    assert_eq!(odd.code(), Code::InvalidArgument);
    let abort = AbortRequest {
        r#ref: "none".to_owned(),
    };
    served.service.abort(Request::new(abort)).await.unwrap();
    assert_eq!(served.info(&sha512).await, Err(Code::NotFound));
    assert_eq!(served.info("odd").await, Err(Code::InvalidArgument));
    assert_eq!(served.info("").await, Err(Code::InvalidArgument));
}

fn any_request() -> impl Strategy<Value = WriteContentRequest> {
    let number = || prop_oneof![Just(0), Just(3), -2..9i64, any::<i64>()];
    let name = || prop_oneof![Just("a".to_owned()), Just(String::new()), "\\PC{0,8}"];
    let digest = prop_oneof![
        3 => Just(String::new()),
        1 => Just(Digest::of(b"abc").to_string()),
        1 => "\\PC{0,20}",
    ];
    let data = prop_oneof![Just(b"abc".to_vec()), Just(Vec::new()), any::<Vec<u8>>()];
    let parts = (-1..4i32, name(), number(), digest, number(), data);
    parts.prop_map(
        |(action, reference, total, expected, offset, data)| WriteContentRequest {
            action,
            r#ref: reference,
            total,
            expected,
            offset,
            data,
            labels: HashMap::new(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_messages_are_survived(
        sessions in prop::collection::vec(prop::collection::vec(any_request(), 1..6), 1..8),
        texts in prop::collection::vec("\\PC{0,30}", 0..3),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(Box::pin(async {
            let served = Served::start().await;
            for session in sessions {
                for answer in served.write(session).await.into_iter().flatten() {
                    prop_assert!(Digest::parse(&answer.digest).is_ok());
                }
            }
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let _ = served.list(&texts).await;
            for text in &texts {
                let _ = served.info(text).await;
            }
            for digest in served.list(&[]).await.unwrap() {
                let digest = Digest::parse(&digest).unwrap();
                let bytes = served.read(&digest, 0, 0).await.unwrap();
                prop_assert_eq!(Digest::of(&bytes), digest);
            }
            Ok(())
        }))?;
    }
}
