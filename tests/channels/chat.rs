//! Chat: the Slack webhook, the Slack bot and Microsoft Teams keep the contract.
