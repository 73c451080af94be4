// What a picture says, in both languages.

export const LANGUAGES = ["en", "ko"] as const;

export type Language = (typeof LANGUAGES)[number];

export const WORDS = {
  en: {
    bytes: (n: number) => `${n.toLocaleString("en")} ${n === 1 ? "byte" : "bytes"}`,
    other: "the other end",
    opens: "connects",
    opensTls: "connects with TLS: encrypted",
    fin: "FIN: I send no more",
    rst: "RST: broken off",
    refused: "refused: nobody listens there",
    left: "left: ",
    returns: "returns",
    ofAll: (n: number) => `(of ${n.toLocaleString("en")})`,
    exit: (code: string) => `exits with ${code}`,
    signal: (name: string) => `gets ${name}`,
    thread: "thread",
    again: (n: number) => `${n.toLocaleString("en")} more calls like these`,
    more: (n: number) => `and ${n} more ${n === 1 ? "connection" : "connections"}`,
    cut: (n: number) => `and ${n.toLocaleString("en")} more calls, which are not drawn`,
    legend: {
      wait: "a call that waits",
      buffer: "sent, not yet received",
      queue: "waits in the backlog",
      half: "has sent FIN, still receives",
      closed: "closed",
    },
    time: "ms",
    waiting: "waiting for the first call …",
  },
  ko: {
    bytes: (n: number) => `${n.toLocaleString("en")}바이트`,
    other: "상대편",
    opens: "연결 요청",
    opensTls: "TLS 연결 요청: 암호화됨",
    fin: "FIN: 더 보낼 데이터 없음",
    rst: "RST: 연결 강제 종료",
    refused: "연결 거부: 이 포트에서 듣는 서버 없음",
    left: "왼쪽: ",
    returns: "반환",
    ofAll: (n: number) => `(총 ${n.toLocaleString("en")})`,
    exit: (code: string) => `종료 코드 ${code}`,
    signal: (name: string) => `${name} 수신`,
    thread: "스레드",
    again: (n: number) => `같은 호출 ${n.toLocaleString("en")}번 반복`,
    more: (n: number) => `외 연결 ${n}개`,
    cut: (n: number) => `이후 호출 ${n.toLocaleString("en")}번은 그리지 않음`,
    legend: {
      wait: "블로킹 중인 호출",
      buffer: "보냈지만 아직 수신되지 않은 데이터",
      queue: "백로그에서 대기",
      half: "FIN을 보냄, 수신은 가능",
      closed: "닫힘",
    },
    time: "ms",
    waiting: "첫 호출을 기다리는 중 …",
  },
} as const;
