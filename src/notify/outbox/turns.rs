//! Which lane's turn it is: channels take turns, and so do the lanes of a channel. So many messages at once over one
//! channel, so many in all. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::lane::Address;
use crate::api::ObjectId;

/// The most messages at once.
pub(super) const IN_ALL: usize = 64;
/// The most messages at once over one channel: one that hangs holds up no other.
pub(super) const PER_CHANNEL: usize = 4;

/// The lanes that are ready.
#[derive(Debug, Default)]
pub(super) struct Turns {
    channels: HashMap<ObjectId, Channel>,
    // Those with a lane that is ready and room for a message.
    queue: VecDeque<ObjectId>,
    in_hand: usize,
}

#[derive(Debug, Default)]
struct Channel {
    ready: VecDeque<Arc<Address>>,
    in_hand: usize,
    is_queued: bool,
}

impl Turns {
    /// A lane is ready.
    pub(super) fn add(&mut self, lane: &Arc<Address>) {
        self.channels.entry(lane.channel.clone()).or_default().ready.push_back(Arc::clone(lane));
        self.settle(&lane.channel);
    }

    /// The next lane, whose message is in hand until [`Turns::done`]; `None`: nothing is ready, or nothing more may start.
    pub(super) fn next(&mut self) -> Option<Arc<Address>> {
        if self.in_hand == IN_ALL {
            return None;
        }
        let id = self.queue.pop_front()?;
        let channel = self.channels.get_mut(&id)?;
        channel.is_queued = false;
        let lane = channel.ready.pop_front()?;
        channel.in_hand += 1;
        self.in_hand += 1;
        self.settle(&id);
        Some(lane)
    }

    /// A message over this channel is no longer in hand.
    pub(super) fn done(&mut self, id: &ObjectId) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        channel.in_hand -= 1;
        self.in_hand -= 1;
        self.settle(id);
    }

    #[cfg(test)]
    pub(super) fn is_bare(&self) -> bool {
        self.channels.is_empty() && self.queue.is_empty() && self.in_hand == 0
    }

    /// The channel gets a turn if it can use one, and is forgotten if it is idle.
    fn settle(&mut self, id: &ObjectId) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        if channel.ready.is_empty() {
            if channel.in_hand == 0 {
                self.channels.remove(id);
            }
        } else if !channel.is_queued && channel.in_hand < PER_CHANNEL {
            channel.is_queued = true;
            self.queue.push_back(id.clone());
        }
    }
}
