// Calls of the server. Every failure is a Problem; status 0 is a lost connection.

export class Problem extends Error {
  constructor(status, detail, current) {
    super(detail);
    this.status = status;
    this.current = current; // 409: how the answer stands now
  }

  // Nothing is wrong with what was sent: it can be sent again.
  get passes() {
    return this.status === 0 || this.status >= 500;
  }
}

let csrf = "";

export async function call(method, path, body) {
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response, answer;
  try {
    const signal = AbortSignal.timeout(20_000);
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
    answer = response.status === 204 ? null : await response.json();
  } catch {
    throw new Problem(response && !response.ok ? response.status : 0, "");
  }
  if (!response.ok) throw new Problem(response.status, answer.detail, answer.current ?? null);
  return answer;
}

// Who is logged in; what changes something afterwards is sent in their name.
export async function identify() {
  const me = await call("GET", "/api/me");
  csrf = me.csrf;
  return me;
}

// Names one attempt, so that sending it twice changes nothing more.
export function attempt() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// What this browser keeps for a person until the server has it.
export class Kept {
  constructor(person) {
    this.prefix = `proxtune/${person}/`;
  }

  get(name) {
    return JSON.parse(localStorage.getItem(this.prefix + name));
  }

  set(name, value) {
    localStorage.setItem(this.prefix + name, JSON.stringify(value));
  }

  remove(name) {
    localStorage.removeItem(this.prefix + name);
  }
}
