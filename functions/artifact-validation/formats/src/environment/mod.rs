//! Files that declare what a model needs to run: `requirements.txt` (pip's format), `conda.yaml`, `python_env.yaml` and
//! `pyproject.toml`.
//!
//! Installing what they name runs the packages' code on the host that serves the model, so where packages come from is
//! looked at like code. Known vulnerabilities come from advisories in OSV format (<https://ossf.github.io/osv-schema/>)
//! that the deployment supplies.

use crate::bundle::Bundle;
use crate::check::Check;
use crate::cursor::{Trouble, quote, read_small, settle};
use crate::report::Verdict;
use crate::rules::Rule;
use crate::source::ReadError;
use crate::window::place_in_bundle;
use crate::yaml;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

mod advisories;
mod conda;
mod pyproject;
mod requirements;

pub use advisories::{Advisories, Vulnerability};

/// The rules of this format.
pub const RULES: &[Rule] = &[
    MALFORMED,
    TOO_LARGE,
    YAML,
    FOREIGN_INDEX,
    DIRECT,
    KNOWN_INDEX,
    UNPINNED,
    ESCAPE,
];

const MALFORMED: Rule = Rule {
    id: "environment.malformed",
    verdict: Verdict::Malformed,
    why: "An environment that cannot be read cannot be rebuilt, nor looked up in advisories.",
    fix: "Write the file in the format that its name stands for.",
};
const TOO_LARGE: Rule = Rule {
    id: "environment.too-large",
    verdict: Verdict::Malformed,
    why: "No environment needs a file of this size, and installers read it whole.",
    fix: "Declare direct dependencies only.",
};
const YAML: Rule = Rule {
    id: "environment.yaml-feature",
    verdict: Verdict::Unsafe,
    why: "Tags construct objects while the file is read; anchors and depth exhaust the reader.",
    fix: "Write plain mappings, lists and texts.",
};
const FOREIGN_INDEX: Rule = Rule {
    id: "environment.foreign-index",
    verdict: Verdict::ContainsCode,
    why: "Packages from an index that nobody vouches for run their code when they are installed.",
    fix: "Install from the registry's own index, and leave index options out of the model.",
};
const DIRECT: Rule = Rule {
    id: "environment.direct-reference",
    verdict: Verdict::ContainsCode,
    why: "A package from a URL, a repository or a local path runs code that no index vouches for.",
    fix: "Publish the package on an index and depend on a version of it.",
};
const KNOWN_INDEX: Rule = Rule {
    id: "environment.additional-index",
    verdict: Verdict::Clean,
    why: "With more than one index, the same name may come from either.",
    fix: "Pin by hash, or mirror the packages on one index.",
};
const UNPINNED: Rule = Rule {
    id: "environment.unpinned",
    verdict: Verdict::Clean,
    why: "Without an exact version, two installations differ.",
    fix: "Pin with `==`.",
};
const ESCAPE: Rule = Rule {
    id: "environment.path-escape",
    verdict: Verdict::Unsafe,
    why: "The file includes another from outside of the model's directory.",
    fix: "Include only files of the model itself.",
};

const MAX_BYTES: u64 = 1024 * 1024;
const MAX_DEPENDENCIES: usize = 10_000;

/// Hosts whose packages are vouched for as much as those of `PyPI` or conda-forge's.
const KNOWN_HOSTS: &[&str] = &[
    "pypi.org",
    "pypi.python.org",
    "files.pythonhosted.org",
    "download.pytorch.org",
    "pypi.nvidia.com",
    "data.pyg.org",
    "conda.anaconda.org",
    "repo.anaconda.com",
];

/// One declared dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Name, normalized as `PyPI` does.
    pub name: String,
    /// The exact version, if it is pinned.
    pub version: Option<String>,
    /// The requirement as it was written.
    pub requirement: String,
}

/// What a file of dependencies is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Requirements,
    Conda,
    PythonEnv,
    Pyproject,
}

fn kind(path: &str) -> Option<Kind> {
    let name = path.rsplit('/').next()?.to_ascii_lowercase();
    match name.as_str() {
        "conda.yaml" | "conda.yml" | "environment.yaml" | "environment.yml" => Some(Kind::Conda),
        "python_env.yaml" | "python_env.yml" => Some(Kind::PythonEnv),
        "pyproject.toml" => Some(Kind::Pyproject),
        "constraints.txt" => Some(Kind::Requirements),
        name if name.starts_with("requirements") && name.rsplit('.').next() == Some("txt") => {
            Some(Kind::Requirements)
        }
        _ => None,
    }
}

/// Tells whether this is text under a name that declares dependencies.
pub fn detect(head: &[u8], _tail: &[u8], path: &str, _size: u64) -> bool {
    kind(path).is_some() && is_text(head)
}

/// Whether bytes are UTF-8 text without control characters; the last character may be cut.
pub(crate) fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(head.get(..error.valid_up_to()).unwrap_or(&[])).unwrap_or("\0")
        }
        Err(_) => return false,
    };
    !valid.chars().any(|character| {
        character.is_control() && !matches!(character, '\n' | '\r' | '\t' | '\u{c}')
    })
}

/// A file of dependencies that is looked through: where its findings go, and what it declares.
struct Lint<'l, 'a> {
    check: &'l mut Check<'a>,
    bundle: &'a Bundle<'a>,
    /// Its path within its own bundle.
    path: String,
    /// The text, for the places of what is quoted from it.
    text: &'l str,
    dependencies: Vec<Dependency>,
    /// The files by which the one that is being read is included.
    included: Vec<String>,
}

impl Lint<'_, '_> {
    /// The path of the file that is being read.
    fn within(&self) -> &str {
        self.included.last().unwrap_or(&self.path)
    }

    fn find(&mut self, rule: &Rule, offset: Option<u64>, detail: String) {
        match self.included.last() {
            Some(file) => {
                let detail = format!("{detail} in {}, which is included", quote(file));
                self.check.find(rule, None, detail);
            }
            None => self.check.find(rule, offset, detail),
        }
    }

    /// Where a text first stands in the file.
    fn place_of(&self, text: &str) -> Option<u64> {
        self.text.find(text).map(|at| at as u64)
    }

    fn declare(&mut self, dependency: Dependency) {
        if self.dependencies.len() < MAX_DEPENDENCIES {
            self.dependencies.push(dependency);
        }
    }
}

/// Inspects one file of dependencies.
pub fn check(check: &mut Check<'_>) -> Result<(), ReadError> {
    let outcome = inspect(check);
    settle(check, outcome, &MALFORMED, &TOO_LARGE)?;
    Ok(())
}

fn inspect(check: &mut Check<'_>) -> Result<(), Trouble> {
    let bytes = read_small(check.source, MAX_BYTES)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Trouble::malformed(error.valid_up_to() as u64, "not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let kind = kind(check.path);
    let mut lint = Lint {
        bundle: check.bundle,
        path: place_in_bundle(check).0.to_owned(),
        check,
        text,
        dependencies: Vec::new(),
        included: Vec::new(),
    };
    match kind {
        Some(Kind::Requirements) | None => requirements::file(&mut lint, text)?,
        Some(Kind::Conda) => conda::conda(&mut lint, &read_yaml(text)?)?,
        Some(Kind::PythonEnv) => conda::python_env(&mut lint, &read_yaml(text)?)?,
        Some(Kind::Pyproject) => pyproject::file(&mut lint)?,
    }
    let dependencies = lint.dependencies;
    let unpinned: Vec<&Dependency> = dependencies
        .iter()
        .filter(|dependency| dependency.version.is_none())
        .collect();
    if let Some(first) = unpinned.first() {
        let names: Vec<&str> = unpinned.iter().map(|one| one.name.as_str()).collect();
        check.find(
            &UNPINNED,
            text.find(&first.requirement).map(|at| at as u64),
            format!("without an exact version: {}", quote(&names.join(", "))),
        );
    }
    check.fact("dependencies", json!(dependencies));
    Ok(())
}

fn read_yaml(text: &str) -> Result<Value, Trouble> {
    yaml::parse(text).map_err(|error| {
        if error.is_dangerous {
            Trouble::rule(&YAML, error.offset, error.detail)
        } else {
            Trouble::malformed(error.offset, error.detail)
        }
    })
}

/// Whether a path stays within the directory that it is relative to.
pub(crate) fn is_inside(path: &str) -> bool {
    crate::zip::is_safe_path(
        path.strip_prefix("./")
            .unwrap_or(path)
            .trim_end_matches('/'),
    )
}

fn is_known_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    KNOWN_HOSTS.contains(&authority)
}

/// Normalizes a name as PEP 503 does.
fn normalize(name: &str) -> String {
    let mut normal = String::new();
    for character in name.chars() {
        if matches!(character, '-' | '_' | '.') {
            if !normal.ends_with('-') {
                normal.push('-');
            }
        } else {
            normal.push(character.to_ascii_lowercase());
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::BundleFile;
    use crate::inspect::Limits;
    use bytes::Bytes;

    fn run(path: &str, text: &str) -> (Verdict, Vec<String>) {
        let source = Bytes::copy_from_slice(text.as_bytes());
        let bundle = Bundle::new(Vec::new());
        let limits = Limits::default();
        let mut check = Check::new(&bundle, path, &source, &limits, 0);
        super::check(&mut check).unwrap();
        let (verdict, findings, _) = check.finish();
        (
            verdict,
            findings.into_iter().map(|finding| finding.rule).collect(),
        )
    }

    #[test]
    fn requirements_from_elsewhere_need_an_approval() {
        let cases = [
            (
                "numpy==1.0\npandas==2 # x\nfoo[bar]==1 ; python_version < '3.9'\n",
                Verdict::Clean,
            ),
            (
                "numpy==1 --hash=sha256:00 \\\n --hash=sha256:11",
                Verdict::Clean,
            ),
            (
                "--extra-index-url https://download.pytorch.org/whl/cpu\ntorch==2.0+cpu",
                Verdict::Clean,
            ),
            (
                "--extra-index-url=https://evil.example/simple\nx==1",
                Verdict::ContainsCode,
            ),
            ("-ihttps://evil.example/simple", Verdict::ContainsCode),
            ("-i https://pypi.org@evil.example/", Verdict::ContainsCode),
            ("git+https://github.com/a/b", Verdict::ContainsCode),
            ("b @ https://evil.example/b.whl", Verdict::ContainsCode),
            ("-e .", Verdict::ContainsCode),
            ("./local.whl", Verdict::ContainsCode),
            ("b.whl", Verdict::ContainsCode),
            ("-r ../../x.txt", Verdict::Unsafe),
            (
                "--pre --index-url https://evil.example/",
                Verdict::ContainsCode,
            ),
            ("--no-index -f https://evil.example/", Verdict::ContainsCode),
            ("# x \\\n-i https://evil.example/", Verdict::ContainsCode),
            ("x==1 # y\r-i https://evil.example/", Verdict::ContainsCode),
            ("--only-binary :all:\nx==1", Verdict::Clean),
            ("-i 'https://pypi.org/simple", Verdict::ContainsCode),
        ];
        for (text, verdict) in cases {
            assert_eq!(run("requirements.txt", text).0, verdict, "{text}");
        }
        assert_eq!(run("requirements.txt", "numpy").1, ["environment.unpinned"]);
    }

    #[test]
    fn pip_lists_within_conda_are_looked_at() {
        let clean =
            "channels:\n- conda-forge\ndependencies:\n- python=3.11\n- pip:\n  - numpy==1\n";
        assert_eq!(run("m/conda.yaml", clean).0, Verdict::Clean);
        let index = "dependencies:\n- pip:\n  - --index-url http://evil\n";
        assert_eq!(run("m/conda.yaml", index).0, Verdict::ContainsCode);
        assert_eq!(
            run("conda.yaml", "channels:\n- https://evil/x\n").0,
            Verdict::ContainsCode
        );
        assert_eq!(
            run("conda.yaml", "a: !!python/name:os.system ''").0,
            Verdict::Unsafe
        );
    }

    #[test]
    fn every_part_of_pyproject_that_names_a_package_is_looked_at() {
        for (text, verdict) in [
            ("[project]\ndependencies = [\"numpy==1\"]\n", Verdict::Clean),
            (
                "[project]\ndependencies = [\n \"numpy==1\", # y\n 'b @ git+https://x/y',\n]\n",
                Verdict::ContainsCode,
            ),
            (
                "project = {dependencies = ['b @ https://x/y']}",
                Verdict::ContainsCode,
            ),
            (
                "\"project\".'dependencies' = ['./b']",
                Verdict::ContainsCode,
            ),
            (
                "[project.optional-dependencies]\na = ['git+https://x/y']",
                Verdict::ContainsCode,
            ),
            (
                "[dependency-groups]\na = [{include-group = 'b'}, 'c']",
                Verdict::Clean,
            ),
            (
                "[build-system]\nrequires = ['x @ https://y/z']",
                Verdict::ContainsCode,
            ),
            (
                "[tool.poetry.dependencies]\npython = '^3.9'\na = '1.2'",
                Verdict::Clean,
            ),
            (
                "[tool.poetry.dependencies.a]\ngit = 'https://x/y'",
                Verdict::ContainsCode,
            ),
            (
                "[tool.poetry.group.dev.dependencies]\na = [{path = '../x'}]",
                Verdict::ContainsCode,
            ),
            (
                "[[tool.poetry.source]]\nname = 'x'\nurl = 'https://evil/'",
                Verdict::ContainsCode,
            ),
            (
                "[tool.uv.sources]\na = {url = 'https://x/y.whl'}",
                Verdict::ContainsCode,
            ),
            (
                "[[tool.uv.index]]\nurl = 'https://download.pytorch.org/whl'",
                Verdict::Clean,
            ),
            (
                "[tool.uv]\nextra-index-url = ['https://evil/']",
                Verdict::ContainsCode,
            ),
            (
                "[tool.setuptools.dynamic]\ndependencies = {file = '../x'}",
                Verdict::Unsafe,
            ),
            ("[project]\na = 1\na = 2\n", Verdict::Malformed),
            ("[project", Verdict::Malformed),
        ] {
            assert_eq!(run("pyproject.toml", text).0, verdict, "{text}");
        }
    }

    #[test]
    fn included_files_are_looked_at_whatever_their_names() {
        let (outer, inner) = (
            Bytes::from_static(b"-r more/deps.list\nx==1\n"),
            Bytes::from_static(b"-r deps.list\n-r ../more/last\n"),
        );
        let last = Bytes::from_static(b"# nothing\n--extra-index-url https://evil.example/\ny\n");
        let bundle = Bundle::new(vec![
            BundleFile {
                path: "m/requirements.txt",
                source: &outer,
            },
            BundleFile {
                path: "m/more/deps.list",
                source: &inner,
            },
            BundleFile {
                path: "m/more/last",
                source: &last,
            },
        ]);
        let limits = Limits::default();
        let mut check = Check::new(&bundle, "m/requirements.txt", &outer, &limits, 0);
        super::check(&mut check).unwrap();
        // `..` within an included file leaves its folder, which is refused though it stays in the model.
        assert_eq!(check.verdict(), Verdict::Unsafe);
        let inner = Bytes::from_static(b"-r last\n");
        let bundle = Bundle::new(vec![
            BundleFile {
                path: "m/requirements.txt",
                source: &outer,
            },
            BundleFile {
                path: "m/more/deps.list",
                source: &inner,
            },
            BundleFile {
                path: "m/more/last",
                source: &last,
            },
        ]);
        let mut check = Check::new(&bundle, "m/requirements.txt", &outer, &limits, 0);
        super::check(&mut check).unwrap();
        let (verdict, findings, facts) = check.finish();
        assert_eq!(verdict, Verdict::ContainsCode);
        assert!(findings[0].detail.contains("m/more/last"), "{findings:?}");
        assert_eq!(facts["dependencies"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn findings_have_their_places() {
        let text = "x==1\n\n  --index-url https://evil.example/\n";
        let source = Bytes::copy_from_slice(text.as_bytes());
        let bundle = Bundle::new(Vec::new());
        let limits = Limits::default();
        let mut check = Check::new(&bundle, "requirements.txt", &source, &limits, 0);
        super::check(&mut check).unwrap();
        assert_eq!(check.finish().1[0].offset_bytes, Some(6));
    }
}
