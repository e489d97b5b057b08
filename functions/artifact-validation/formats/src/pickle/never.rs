//! What no deployment can add to the allow-list: names that run code, open files or import by name.
//!
//! A list of a deployment is for classes of its own packages and of packages that the built-in list does not know.
//! This is a guard against mistakes and not a proof: whoever extends the list vouches for what it names.

use super::globals::{AllowList, Use};
use std::collections::HashSet;
use std::sync::LazyLock;

const NEVER_ALLOWED: &str = include_str!("never-allowed.txt");

/// The lines of the list, by what they say.
#[derive(Debug, Default)]
struct Never {
    modules: HashSet<&'static str>,
    names: HashSet<&'static str>,
    calls: HashSet<&'static str>,
    public: HashSet<&'static str>,
    exact: HashSet<(&'static str, &'static str)>,
}

static NEVER: LazyLock<Never> = LazyLock::new(|| {
    let mut never = Never::default();
    for line in NEVER_ALLOWED.lines() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        match words.next() {
            Some("module") => never.modules.extend(words),
            Some("name") => never.names.extend(words),
            Some("call") => never.calls.extend(words),
            Some("public") => never.public.extend(words),
            Some("exact") => {
                if let Some(module) = words.next() {
                    never.exact.extend(words.map(|name| (module, name)));
                }
            }
            _ => {}
        }
    }
    never
});

/// Why a deployment cannot allow this use of `module.name`; `None` if it can.
pub(super) fn reason(granted: Use, module: &str, name: &str) -> Option<String> {
    if let Some(known) = AllowList::built_in().find(module, name) {
        if includes(known, granted) {
            return None;
        }
        return Some(format!(
            "the built-in list has it as `{}`, which a deployment cannot change",
            known.word()
        ));
    }
    if matches!(granted, Use::Check | Use::Storage | Use::Code) {
        return Some(format!(
            "the use `{}` is for names whose arguments are checked by rules of their own",
            granted.word()
        ));
    }
    if name.starts_with("__") || module.split('.').any(|part| part.starts_with("__")) {
        return Some("special names reach the inside of the interpreter".to_owned());
    }
    if NEVER.exact.contains(&(module, name)) {
        return None;
    }
    if NEVER.names.contains(name) {
        return Some(format!(
            "whatever is called `{name}` runs code or opens files"
        ));
    }
    let is_called = matches!(granted, Use::Call | Use::DictCall | Use::ListCall);
    if is_called && NEVER.calls.contains(name) {
        return Some(format!(
            "calling `{name}` reads files or runs what it is given"
        ));
    }
    let mut within = module;
    loop {
        if NEVER.modules.contains(within) {
            return Some(format!(
                "names of `{within}` can run code, open files or import others"
            ));
        }
        let Some((outer, _)) = within.rsplit_once('.') else {
            break;
        };
        within = outer;
    }
    if NEVER.public.contains(within) && name.starts_with('_') {
        return Some(format!("only public names of `{within}` can be allowed"));
    }
    None
}

/// Whether a use of the built-in list permits at least as much as another.
fn includes(known: Use, granted: Use) -> bool {
    let rank = |used: Use| match used {
        Use::Data => Some(0),
        Use::Class | Use::DictClass | Use::ListClass => Some(1),
        Use::Call | Use::DictCall | Use::ListCall => Some(2),
        Use::Mention | Use::Check | Use::Storage | Use::Code => None,
    };
    known == granted
        || matches!((rank(known), rank(granted)), (Some(known), Some(granted)) if known >= granted)
}
