//! Plays on several threads.

use std::sync::Mutex;

/// Does something for each of many things, on so many threads.
pub(crate) fn each<T: Send>(
    threads: usize,
    things: impl Iterator<Item = T> + Send,
    act: impl Fn(T) + Sync,
) {
    let things = Mutex::new(things);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = things.lock().ok().and_then(|mut things| things.next());
                    let Some(thing) = next else { return };
                    act(thing);
                }
            });
        }
    });
}
