//! The store in memory keeps the contract that the others keep.

use async_trait::async_trait;
use virtual_account_operator::integration::{ErrorKind, ProviderError};
use virtual_account_operator::store::{Held, Memory, Store, Verdict};

use super::contract::{Instance, Opening, contract};
use super::story::issued;

contract!(InMemory::default());

#[derive(Default)]
struct InMemory(Memory);

#[async_trait]
impl Instance for InMemory {
    async fn open(&self) -> Box<dyn Store> {
        Box::new(self.0.clone())
    }

    async fn open_as(&self, _: Opening) -> Option<Box<dyn Store>> {
        None
    }

    async fn put_by_hand(&self, path: &str, value: &str) {
        self.0.put_by_hand(path, value);
    }

    async fn wipe(&self, path: &str) {
        self.0.wipe(path);
    }

    async fn usable(&self, path: &str) -> Vec<String> {
        self.0.usable(path)
    }

    async fn versions(&self, path: &str) -> usize {
        self.0.versions(path)
    }

    async fn value(&self, path: &str) -> Option<String> {
        self.0.value(path)
    }
}

#[tokio::test]
async fn it_fails_as_often_as_it_is_told_to() {
    let (store, first) = (Memory::new(), issued(1));
    let down = ProviderError::new(ErrorKind::Unavailable, "Down", "it is down");
    store.fail(2, &down);
    assert_eq!(first.deliver(&store, "/p").await, Err(down.clone()));
    assert_eq!(store.check().await, Err(down));
    assert_eq!(first.deliver(&store, "/p").await, Ok(Verdict::Write));
    assert_eq!((store.calls(), store.versions("/p")), (4, 1));
}

#[tokio::test]
async fn an_answer_is_lost_after_the_call_was_carried_out() {
    let (store, first) = (Memory::new(), issued(1));
    store.lose_answers(1);
    let error = store.write("/p", &first.value(), &Held::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(store.value("/p").as_deref(), Some(first.text()));
    assert_eq!(first.deliver(&store, "/p").await, Ok(Verdict::Holds));
    assert!(!format!("{store:?}").contains(first.text()));
}
