import { type FormEvent, type ReactNode, useEffect, useRef, useState } from "react";
import type { Client } from "../client";
import { sentence } from "../format";
import { Command } from "./Command";
import { keyCommand } from "./commands";
import { KeyIcon } from "./icons";

/** Asks for a key with which charts may be read, and forgets it with the page. */
export function SignIn({ client }: { client: Client }): ReactNode {
  const [key, setKey] = useState("");
  const [failure, setFailure] = useState(() => (client.access.key === null ? "" : "your key is no longer taken"));
  const [busy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);

  const submit = async (event: FormEvent): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setFailure("");
    try {
      await client.api.signIn(key.trim());
    } catch (error) {
      setFailure(error instanceof Error ? error.message : String(error));
      setBusy(false);
      field.current?.focus();
      field.current?.select();
    }
  };

  return (
    <div className="notice" data-testid="sign-in">
      <span className="notice-mark">
        <KeyIcon />
      </span>
      <h2>These charts need a key</h2>
      <form className="sign-in" onSubmit={(event) => void submit(event)}>
        <label htmlFor="key">Read key</label>
        <div className="sign-in-row">
          <input
            id="key"
            ref={field}
            type="password"
            value={key}
            autoComplete="off"
            autoCapitalize="off"
            spellCheck={false}
            required
            aria-invalid={failure !== ""}
            aria-describedby="key-about key-failure"
            data-testid="key"
            onChange={(event) => setKey(event.target.value)}
          />
          <button type="submit" className="button primary" disabled={busy || key.trim() === ""}>
            {busy ? "Looking…" : "Show charts"}
          </button>
        </div>
        <p id="key-failure" role="alert" className="sign-in-failure" data-testid="key-error">
          {failure !== "" && sentence(failure)}
        </p>
        <p id="key-about" className="quiet">
          It stays in this page and is forgotten when you close or reload it. You have none? On the machine that candled runs on, with its data directory:
        </p>
        <Command label="make a key" text={keyCommand("read", null)} />
      </form>
    </div>
  );
}
