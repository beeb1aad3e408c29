//! Stories: what a user would tell, through the real programs, one file each.

mod alert_crosses_gateway;
mod approval;
mod authorities;
mod authority_table;
mod bad_certificate;
mod bad_configuration;
mod bad_plugins;
mod configuration;
mod demo;
mod doctor;
mod failover;
mod full_queue;
mod gateway_trust;
mod hostile_frames;
mod hostile_gateway;
mod joining;
mod load_kills;
mod load_power_cut;
mod own_pki;
mod queue_lives;
mod renewal;
mod rolled_back;
mod run_as;
mod slow_database;
mod trust_log;
mod two_groups;
