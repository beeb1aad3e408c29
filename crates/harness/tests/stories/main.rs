//! Stories: what a user would tell, through the real programs, one file each.

mod alert_crosses_gateway;
