//! NTLM as in MS-NLMP: pure, bytes in, bytes out; time and nonces are arguments.
