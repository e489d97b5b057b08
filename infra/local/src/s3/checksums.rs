//! Checksums as S3 knows them: five algorithms, whole-object or composite.
//!
//! Everything here is pure; bodies are fed in pieces and never kept.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use crc_fast::CrcAlgorithm;
use md5::Md5;
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// The CRC-32C of Castagnoli, under the name `crc-fast` gives it.
const CRC32C: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// Names a checksum algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(super) const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// Reads the name that S3 uses in headers and XML.
    pub(super) fn parse(name: &str) -> S3Result<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                s3_error!(
                    InvalidRequest,
                    "Checksum algorithm provided is unsupported."
                )
            })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Names the header, or trailer, that carries this checksum.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    fn length(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Answers the CRC behind this algorithm, if it is one.
    ///
    /// Only CRCs of consecutive parts combine into the checksum of the whole.
    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CRC32C),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }
}

/// Says what a checksum of a multipart object covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Coverage {
    /// The bytes of the object.
    FullObject,
    /// The checksums of its parts.
    Composite,
}

impl Coverage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    /// Chooses the coverage of a multipart upload, or refuses a combination that S3 does not have.
    pub(super) fn choose(algorithm: Algorithm, requested: Option<&str>) -> S3Result<Self> {
        let coverage = match requested {
            None if algorithm == Algorithm::Crc64Nvme => Self::FullObject,
            Some("FULL_OBJECT") => Self::FullObject,
            None | Some("COMPOSITE") => Self::Composite,
            Some(_) => {
                return Err(s3_error!(
                    InvalidRequest,
                    "Value for x-amz-checksum-type header is invalid."
                ));
            }
        };
        let possible = match coverage {
            Self::FullObject => algorithm.crc().is_some(),
            Self::Composite => algorithm != Algorithm::Crc64Nvme,
        };
        if possible {
            Ok(coverage)
        } else {
            Err(s3_error!(
                InvalidRequest,
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                coverage.name(),
                algorithm.name()
            ))
        }
    }
}

/// A checksum with its algorithm, in base64 as on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checksum {
    pub(super) algorithm: Algorithm,
    pub(super) coverage: Coverage,
    pub(super) value: String,
}

impl Checksum {
    /// Answers the value if it is of this algorithm, which is how the outputs are filled.
    pub(super) fn of(&self, algorithm: Algorithm) -> Option<String> {
        (self.algorithm == algorithm).then(|| self.value.clone())
    }
}

/// Sets the five checksum fields of an s3s output from one checksum.
macro_rules! set_checksum {
    ($output:expr, $checksum:expr) => {
        if let Some(checksum) = $checksum {
            use $crate::s3::checksums::Algorithm;
            $output.checksum_crc32 = checksum.of(Algorithm::Crc32);
            $output.checksum_crc32c = checksum.of(Algorithm::Crc32c);
            $output.checksum_crc64nvme = checksum.of(Algorithm::Crc64Nvme);
            $output.checksum_sha1 = checksum.of(Algorithm::Sha1);
            $output.checksum_sha256 = checksum.of(Algorithm::Sha256);
        }
    };
}

/// Collects the five checksum fields of an s3s input.
macro_rules! claimed_checksums {
    ($input:expr) => {{
        use $crate::s3::checksums::Algorithm;
        [
            (Algorithm::Crc32, $input.checksum_crc32.clone()),
            (Algorithm::Crc32c, $input.checksum_crc32c.clone()),
            (Algorithm::Crc64Nvme, $input.checksum_crc64nvme.clone()),
            (Algorithm::Sha1, $input.checksum_sha1.clone()),
            (Algorithm::Sha256, $input.checksum_sha256.clone()),
        ]
        .into_iter()
        .filter_map(|(algorithm, value)| value.map(|value| (algorithm, value)))
        .collect::<Vec<_>>()
    }};
}

pub(super) use {claimed_checksums, set_checksum};

/// Computes one checksum over a stream.
#[derive(Clone)]
enum Hasher {
    Crc(Algorithm, crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hasher")
    }
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match (algorithm, algorithm.crc()) {
            (_, Some(crc)) => Self::Crc(algorithm, crc_fast::Digest::new(crc)),
            (Algorithm::Sha1, None) => Self::Sha1(Sha1::new()),
            (_, None) => Self::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(_, digest) => digest.update(bytes),
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Crc(algorithm, digest) => encode_crc(algorithm, digest.finalize()),
            Self::Sha1(digest) => BASE64.encode(digest.finalize()),
            Self::Sha256(digest) => BASE64.encode(digest.finalize()),
        }
    }
}

fn encode_crc(algorithm: Algorithm, value: u64) -> String {
    let bytes = value.to_be_bytes();
    BASE64.encode(&bytes[bytes.len() - algorithm.length()..])
}

/// Computes the MD5 and any number of checksums over one pass of the bytes.
#[derive(Debug, Clone)]
pub(super) struct Hashers {
    md5: Md5,
    others: Vec<(Algorithm, Hasher)>,
}

impl Hashers {
    pub(super) fn new(algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        let mut others: Vec<(Algorithm, Hasher)> = Vec::new();
        for algorithm in algorithms {
            if others.iter().all(|(known, _)| *known != algorithm) {
                others.push((algorithm, Hasher::new(algorithm)));
            }
        }
        Self {
            md5: Md5::new(),
            others,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        for (_, hasher) in &mut self.others {
            hasher.update(bytes);
        }
    }

    pub(super) fn finish(self) -> Digests {
        Digests {
            md5: self.md5.finalize().into(),
            checksums: self
                .others
                .into_iter()
                .map(|(algorithm, hasher)| (algorithm, hasher.finish()))
                .collect(),
        }
    }
}

/// What one pass over the bytes found.
#[derive(Debug, Clone)]
pub(super) struct Digests {
    md5: [u8; 16],
    checksums: Vec<(Algorithm, String)>,
}

impl Digests {
    /// Answers the entity tag: the MD5 in hexadecimal, without quotes.
    pub(super) fn etag(&self) -> String {
        hex::encode(self.md5)
    }

    pub(super) fn checksum(&self, algorithm: Algorithm) -> Option<Checksum> {
        self.checksums
            .iter()
            .find(|(known, _)| *known == algorithm)
            .map(|(_, value)| Checksum {
                algorithm,
                coverage: Coverage::FullObject,
                value: value.clone(),
            })
    }

    /// Holds the bytes against what the client claimed about them.
    pub(super) fn verify(
        &self,
        content_md5: Option<&str>,
        claims: &[(Algorithm, String)],
    ) -> S3Result<()> {
        if let Some(claim) = content_md5 {
            let claim = BASE64
                .decode(claim)
                .ok()
                .filter(|claim| claim.len() == self.md5.len())
                .ok_or_else(|| {
                    s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid.")
                })?;
            if claim != self.md5 {
                return Err(s3_error!(
                    BadDigest,
                    "The Content-MD5 you specified did not match what we received."
                ));
            }
        }
        for (algorithm, claim) in claims {
            well_formed(*algorithm, claim)?;
            if self
                .checksum(*algorithm)
                .is_none_or(|found| found.value != *claim)
            {
                return Err(bad_digest(*algorithm));
            }
        }
        Ok(())
    }
}

/// Refuses a claim that cannot be a checksum of its algorithm at all.
pub(super) fn well_formed(algorithm: Algorithm, claim: &str) -> S3Result<()> {
    match BASE64.decode(claim) {
        Ok(bytes) if bytes.len() == algorithm.length() => Ok(()),
        _ => Err(s3_error!(
            InvalidRequest,
            "Value for {} header is invalid.",
            algorithm.header()
        )),
    }
}

pub(super) fn bad_digest(algorithm: Algorithm) -> S3Error {
    s3_error!(
        BadDigest,
        "The {} you specified did not match the calculated checksum.",
        algorithm.name()
    )
}

/// Derives the entity tag of a multipart object: the MD5 of the parts' MD5s, and their number.
pub(super) fn multipart_etag<'a>(parts: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = parts.len();
    let mut digest = Md5::new();
    for etag in parts {
        digest.update(hex::decode(etag).unwrap_or_default());
    }
    format!("{}-{count}", hex::encode(digest.finalize()))
}

/// Derives the checksum of a multipart object from its parts' checksums and sizes.
pub(super) fn combine(
    algorithm: Algorithm,
    coverage: Coverage,
    parts: &[(String, u64)],
) -> Option<Checksum> {
    let decoded: Vec<(Vec<u8>, u64)> = parts
        .iter()
        .map(|(value, size)| BASE64.decode(value).ok().map(|bytes| (bytes, *size)))
        .collect::<Option<_>>()?;
    let value = match coverage {
        Coverage::Composite => {
            let mut hasher = Hasher::new(algorithm);
            for (bytes, _) in &decoded {
                hasher.update(bytes);
            }
            format!("{}-{}", hasher.finish(), decoded.len())
        }
        Coverage::FullObject => {
            let crc = algorithm.crc()?;
            let mut values = decoded.iter().map(|(bytes, size)| {
                (
                    bytes
                        .iter()
                        .fold(0_u64, |value, byte| (value << 8) | u64::from(*byte)),
                    *size,
                )
            });
            let (first, _) = values.next()?;
            let whole = values.fold(first, |whole, (value, size)| {
                crc_fast::checksum_combine(crc, whole, value, size)
            });
            encode_crc(algorithm, whole)
        }
    };
    Some(Checksum {
        algorithm,
        coverage,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(algorithm: Algorithm, bytes: &[u8]) -> String {
        let mut hashers = Hashers::new([algorithm]);
        hashers.update(bytes);
        hashers.finish().checksum(algorithm).unwrap().value
    }

    #[test]
    fn known_answers_are_met() {
        let check =
            |algorithm, expected: &str| assert_eq!(checksum(algorithm, b"123456789"), expected);
        check(
            Algorithm::Crc32,
            &BASE64.encode(0xcbf4_3926_u32.to_be_bytes()),
        );
        check(
            Algorithm::Crc32c,
            &BASE64.encode(0xe306_9283_u32.to_be_bytes()),
        );
        check(
            Algorithm::Crc64Nvme,
            &BASE64.encode(0xae8b_1486_0a79_9888_u64.to_be_bytes()),
        );
    }

    #[test]
    fn the_crcs_of_parts_combine_into_the_crc_of_the_whole() {
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let parts: Vec<(String, u64)> = [&b"12"[..], b"", b"3456", b"789"]
                .into_iter()
                .map(|part| (checksum(algorithm, part), part.len() as u64))
                .collect();
            let whole = combine(algorithm, Coverage::FullObject, &parts).unwrap();
            assert_eq!(
                whole.value,
                checksum(algorithm, b"123456789"),
                "{algorithm:?}"
            );
        }
    }
}
