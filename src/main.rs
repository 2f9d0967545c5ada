//! The binary: parses the command line, starts telemetry and runs one command.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use tokio::io::AsyncReadExt;
use virtual_account_operator::clock::{self, ServerClock};
use virtual_account_operator::config::{Cli, Command, KeysArgs, VerifyArgs};
use virtual_account_operator::{api, client, run, telemetry, token, verify};

// The allocator of glibc keeps what a burst of passes has used.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The strict verifier takes no longer tokens; more than this on stdin is not read.
const LONGEST_INPUT: u64 = 64 * 1024;

#[tokio::main]
async fn main() -> ExitCode {
    match command(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn command(cli: Cli) -> anyhow::Result<()> {
    telemetry::init(cli.log_format)?;
    // Two TLS libraries of one build could each claim to be the default; this one is.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match cli.command {
        Command::Run(arguments) => run::run(arguments.settings()?).await,
        Command::Crd => crd(),
        Command::Keys(arguments) => keys(arguments).await,
        Command::Verify(arguments) => check(arguments).await,
    }
}

fn crd() -> anyhow::Result<()> {
    print!("{}", api::yaml()?);
    Ok(())
}

async fn keys(arguments: KeysArgs) -> anyhow::Result<()> {
    let (client, _) = connect().await?;
    println!(
        "{}",
        token::keys(arguments.command, client, &arguments.namespace.namespace, clock::now).await?.trim_end()
    );
    Ok(())
}

async fn check(arguments: VerifyArgs) -> anyhow::Result<()> {
    let (client, server_clock) = connect().await?;
    let mut text = String::new();
    tokio::io::stdin().take(LONGEST_INPUT).read_to_string(&mut text).await.context("cannot read a token from stdin")?;
    let namespace = &arguments.namespace.namespace;
    println!("{}", verify::verify(client, server_clock, namespace, arguments.max_clock_skew, text.trim()).await?);
    Ok(())
}

async fn connect() -> anyhow::Result<(kube::Client, ServerClock)> {
    let server_clock = ServerClock::new();
    let client =
        client::connect(server_clock.clone(), Arc::new(|_, _| {})).await.context("cannot connect to the API server")?;
    Ok((client, server_clock))
}
