/** The key that reading needs where the daemon asks for one. It lives here alone, and goes with the page. */

import { Listeners } from "./listeners";

const SENDABLE = /^[\x21-\x7e]+$/; // what a header can carry

export class Access {
  readonly #changes = new Listeners();
  #key: string | null = null;
  #needed = false;

  get key(): string | null {
    return this.#key;
  }

  /** Nothing can be read until another key is given. */
  get needed(): boolean {
    return this.#needed;
  }

  onChange(listener: () => void): () => void {
    return this.#changes.add(listener);
  }

  /** What was asked with this key was refused; the refusal of a key that was replaced meanwhile says nothing. */
  refused(key: string | null): void {
    if (key !== this.#key || this.#needed) return;
    this.#needed = true;
    this.#changes.tell();
  }

  /** A key that the daemon takes. */
  granted(key: string): void {
    this.#key = key;
    this.#needed = false;
    this.#changes.tell();
  }
}

export function sendable(key: string): boolean {
  return SENDABLE.test(key);
}
