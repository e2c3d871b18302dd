//! What the store's threads meet at, under shuttle's scheduler.

pub(crate) use shuttle::future::block_on;
pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

pub(crate) mod atomic {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}

pub(crate) mod thread {
    use std::io;
    use std::sync::Arc;

    use super::atomic::{AtomicBool, Ordering};

    pub(crate) use shuttle::thread::yield_now;

    /// Shuttle's, which does not know whether a thread has finished.
    #[derive(Debug)]
    pub(crate) struct JoinHandle<T> {
        inner: shuttle::thread::JoinHandle<T>,
        finished: Arc<AtomicBool>,
    }

    impl<T> JoinHandle<T> {
        pub(crate) fn join(self) -> std::thread::Result<T> {
            self.inner.join()
        }

        pub(crate) fn is_finished(&self) -> bool {
            self.finished.load(Ordering::Acquire)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Builder(shuttle::thread::Builder);

    impl Builder {
        pub(crate) fn new() -> Self {
            Self(shuttle::thread::Builder::new())
        }

        pub(crate) fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub(crate) fn spawn<F, T>(self, work: F) -> io::Result<JoinHandle<T>>
        where
            F: FnOnce() -> T + Send + 'static,
            T: Send + 'static,
        {
            let finished = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&finished);
            let inner = self.0.spawn(move || {
                let done = work();
                flag.store(true, Ordering::Release);
                done
            })?;
            Ok(JoinHandle { inner, finished })
        }
    }
}

/// Tokio's, with a moment before each call at which another thread may go on.
pub(crate) mod watch {
    use tokio::sync::watch;
    use tokio::sync::watch::error::RecvError;

    fn switch() {
        shuttle::sync::atomic::AtomicBool::new(false).load(shuttle::sync::atomic::Ordering::SeqCst);
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(watch::Sender<T>);

    pub(crate) struct Receiver<T>(watch::Receiver<T>);

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(watch::Sender::new(value))
        }

        pub(crate) fn send_modify(&self, modify: impl FnOnce(&mut T)) {
            switch();
            self.0.send_modify(modify);
        }

        pub(crate) fn subscribe(&self) -> Receiver<T> {
            switch();
            Receiver(self.0.subscribe())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) async fn wait_for(
            &mut self,
            condition: impl FnMut(&T) -> bool,
        ) -> Result<watch::Ref<'_, T>, RecvError> {
            switch();
            self.0.wait_for(condition).await
        }
    }
}
