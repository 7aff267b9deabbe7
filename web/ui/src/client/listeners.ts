/** Those who want to be told. One that throws is reported and does not keep the others from hearing. */
export class Listeners<Told = void> {
  readonly #all = new Set<(told: Told) => void>();

  add(listener: (told: Told) => void): () => void {
    this.#all.add(listener);
    return () => {
      this.#all.delete(listener);
    };
  }

  tell(told: Told): void {
    for (const listener of [...this.#all]) {
      try {
        listener(told);
      } catch (error) {
        console.error("a listener failed", error);
      }
    }
  }
}
