//! Bodies on their way in and out: streamed, never whole in memory.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, StdError, TrailingHeaders, s3_error};

use super::blobs::{Blobs, Pin, Writer, Written};
use super::checksums::{Algorithm, Digests, Hashers};
use super::store::{Change, Outcome, Segment, Store};

/// How much is handed to, or taken from, a worker thread at once.
const PIECE: usize = 1 << 20;

/// A body that is on disk, with what one pass over it found.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) blob: Written,
    pub(super) size: u64,
    pub(super) digests: Digests,
}

impl Received {
    /// The segments of an object that is this body.
    pub(super) fn segments(&self) -> Vec<Segment> {
        if self.size == 0 {
            return Vec::new();
        }
        vec![Segment {
            blob: self.blob.id().to_owned(),
            start: 0,
            length: self.size,
        }]
    }

    /// Leaves the file in place if the change commits, unless it is empty and nothing refers to it.
    pub(super) fn keep(self, change: &mut Change<'_>) {
        if self.size > 0 {
            change.keep(self.blob);
        }
    }
}

/// What the client says about a body before it sends it.
#[derive(Debug)]
pub(super) struct Announced {
    length: Option<u64>,
    content_md5: Option<String>,
    claims: Vec<(Algorithm, String)>,
    trailing: Vec<Algorithm>,
    trailers: Option<TrailingHeaders>,
}

impl Announced {
    pub(super) fn read<T>(
        request: &S3Request<T>,
        content_length: Option<i64>,
        content_md5: Option<String>,
        mut claims: Vec<(Algorithm, String)>,
    ) -> S3Result<Self> {
        // Presigners may move `x-amz-` headers into the query, where they are signed just the same.
        let query = request.uri.query().unwrap_or_default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let known = Algorithm::ALL
                .into_iter()
                .find(|algorithm| name.eq_ignore_ascii_case(algorithm.header()));
            if let Some(algorithm) = known {
                let value = percent_encoding::percent_decode_str(value)
                    .decode_utf8_lossy()
                    .into_owned();
                claims.push((algorithm, value));
            }
        }
        if claims
            .iter()
            .any(|(algorithm, _)| *algorithm != claims[0].0)
        {
            return Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
            ));
        }
        let mut trailing = Vec::new();
        for names in request.headers.get_all("x-amz-trailer") {
            for name in names.to_str().unwrap_or_default().split(',') {
                let known = Algorithm::ALL
                    .into_iter()
                    .find(|algorithm| name.trim().eq_ignore_ascii_case(algorithm.header()));
                trailing.extend(known);
            }
        }
        Ok(Self {
            length: content_length.and_then(|length| u64::try_from(length).ok()),
            content_md5,
            claims,
            trailing,
            trailers: request.trailing_headers.clone(),
        })
    }

    /// The algorithm the client chose, if any.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        self.claims
            .first()
            .map(|(algorithm, _)| *algorithm)
            .or(self.trailing.first().copied())
    }
}

/// Writes a body to disk and verifies everything that was announced about it.
///
/// The file disappears unless the caller commits and keeps it.
pub(super) async fn receive(
    store: &Arc<Store>,
    body: Option<StreamingBlob>,
    mut announced: Announced,
    wanted: Option<Algorithm>,
) -> Outcome<Received> {
    if body.is_some() && announced.length.is_none() {
        return Err(s3_error!(
            MissingContentLength,
            "You must provide the Content-Length HTTP header."
        )
        .into());
    }
    let algorithms: Vec<Algorithm> = announced
        .claims
        .iter()
        .map(|(algorithm, _)| *algorithm)
        .chain(announced.trailing.iter().copied())
        .chain(wanted)
        .collect();
    let blobs = Arc::clone(&store.blobs);
    let mut writer = tokio::task::spawn_blocking(move || blobs.create(algorithms)).await??;
    let mut received = 0_u64;
    if let Some(mut body) = body {
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut waiting = 0;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(broken_body)?;
            received += piece.len() as u64;
            if announced.length.is_some_and(|length| received > length) {
                return Err(incomplete().into());
            }
            waiting += piece.len();
            pieces.push(piece);
            if waiting >= PIECE {
                writer = write(writer, std::mem::take(&mut pieces)).await?;
                waiting = 0;
            }
        }
        writer = write(writer, pieces).await?;
    }
    // A chunked body may end early without an error of its own.
    if announced.length.is_some_and(|length| received != length) {
        return Err(incomplete().into());
    }
    let trailers = announced
        .trailers
        .as_ref()
        .and_then(TrailingHeaders::take)
        .unwrap_or_default();
    for algorithm in &announced.trailing {
        let value = trailers
            .get(algorithm.header())
            .and_then(|value| value.to_str().ok())
            .ok_or_else(malformed_trailer)?;
        announced.claims.push((*algorithm, value.to_owned()));
    }
    let Announced {
        content_md5,
        claims,
        ..
    } = announced;
    tokio::task::spawn_blocking(move || {
        let (blob, size, digests) = writer.finish()?;
        digests.verify(content_md5.as_deref(), &claims)?;
        Ok(Received {
            blob,
            size,
            digests,
        })
    })
    .await?
}

async fn write(mut writer: Writer, pieces: Vec<Bytes>) -> Outcome<Writer> {
    let write = move || -> io::Result<Writer> {
        for piece in pieces {
            writer.write(&piece)?;
        }
        Ok(writer)
    };
    Ok(tokio::task::spawn_blocking(write).await??)
}

fn incomplete() -> S3Error {
    s3_error!(
        IncompleteBody,
        "You did not provide the number of bytes specified by the Content-Length HTTP header"
    )
}

fn malformed_trailer() -> S3Error {
    let mut error = S3Error::with_message(
        S3ErrorCode::Custom("MalformedTrailerError".into()),
        "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    );
    error.set_status_code(http::StatusCode::BAD_REQUEST);
    error
}

/// Translates the protocol layer's body errors, whose types are private, by what they say.
fn broken_body(error: StdError) -> S3Error {
    let said = error.to_string();
    if said.contains("Sha256Mismatch") {
        let mut error = S3Error::with_message(
            S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()),
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        );
        error.set_status_code(http::StatusCode::BAD_REQUEST);
        error
    } else if said.contains("SignatureMismatch") {
        s3_error!(
            SignatureDoesNotMatch,
            "The request signature we calculated does not match the signature you provided."
        )
    } else if said.contains("railer") {
        malformed_trailer()
    } else {
        let mut refusal = incomplete();
        refusal.set_source(error);
        refusal
    }
}

/// Cuts a byte range out of a list of segments.
pub(super) fn cut(segments: &[Segment], range: &Range<u64>) -> Vec<Segment> {
    let mut offset = 0;
    let mut cut = Vec::new();
    for segment in segments {
        let start = range.start.clamp(offset, offset + segment.length);
        let end = range.end.clamp(offset, offset + segment.length);
        if start < end {
            cut.push(Segment {
                blob: segment.blob.clone(),
                start: segment.start + (start - offset),
                length: end - start,
            });
        }
        offset += segment.length;
    }
    cut
}

/// Reads segments one after the other.
struct Reader {
    blobs: Arc<Blobs>,
    segments: std::vec::IntoIter<Segment>,
    current: Option<(std::fs::File, u64)>,
    /// Keeps the files in place for as long as they are read.
    _pin: Arc<Pin>,
}

impl Reader {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some((file, left)) = &mut self.current
                && *left > 0
            {
                let length = usize::try_from(*left).map_or(PIECE, |left| left.min(PIECE));
                let mut piece = BytesMut::zeroed(length);
                file.read_exact(&mut piece)?;
                *left -= length as u64;
                return Ok(Some(piece.freeze()));
            }
            let Some(segment) = self.segments.next() else {
                return Ok(None);
            };
            let mut file = self.blobs.file(&segment.blob)?;
            file.seek(SeekFrom::Start(segment.start))?;
            self.current = Some((file, segment.length));
        }
    }
}

/// Streams segments to a client.
pub(super) fn send(store: &Store, segments: Vec<Segment>, pin: Pin) -> StreamingBlob {
    let reader = Reader {
        blobs: Arc::clone(&store.blobs),
        segments: segments.into_iter(),
        current: None,
        _pin: Arc::new(pin),
    };
    StreamingBlob::wrap(futures::stream::try_unfold(
        reader,
        |mut reader| async move {
            let step = move || {
                reader
                    .next()
                    .map(|piece| piece.map(|piece| (piece, reader)))
            };
            tokio::task::spawn_blocking(step)
                .await
                .map_err(io::Error::other)?
        },
    ))
}

/// Hashes segments without sending them anywhere, for copies.
pub(super) async fn hash(
    store: &Store,
    segments: Vec<Segment>,
    pin: &Arc<Pin>,
    algorithms: Vec<Algorithm>,
) -> Outcome<Digests> {
    let mut reader = Reader {
        blobs: Arc::clone(&store.blobs),
        segments: segments.into_iter(),
        current: None,
        _pin: Arc::clone(pin),
    };
    tokio::task::spawn_blocking(move || {
        let mut hashers = Hashers::new(algorithms);
        while let Some(piece) = reader.next()? {
            hashers.update(&piece);
        }
        Ok(hashers.finish())
    })
    .await?
}
