// The state of a connection, as bits, and what each event does to them (+ sets, - clears):
//
//                        recv  recv  pau-  full  send  fin  gone  bro-  torn
//                        ended shut  sed         shut  due        ken
//   inbox over its limit              +
//   inbox below it again              -
//   peer's FIN            +
//   shutdown("read")      +     +     -
//   endReceiving()        +           -
//   kernel takes a part                     +
//   drain                                   -
//   shutdown("write")                             +     +
//   outbox empty                                        -
//   send meets a reset                -           +                 +
//   send is given up                              -     -                 +
//   reset, idle timeout   +                                   +     +
//   both FINs             +                                   +
export const RECV_ENDED = 1; // nothing more will come
export const RECV_SHUT = 2; // we have shut down receiving
export const PAUSED = 4; // Bun is not reading
export const FULL = 8; // the kernel did not take all we wrote, and has not reported room since
export const SEND_SHUT = 16; // sending fails: EPIPE
export const FIN_DUE = 32; // FIN is to be sent after the outbox
export const GONE = 64; // Bun has closed the descriptor
export const BROKEN = 128; // the peer reset the connection, or a timeout ended it
export const TORN = 256; // a send was given up: the peer must not see a clean end
