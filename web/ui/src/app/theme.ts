/** Dark or light: the system's choice until the reader makes one. */

import { useCallback, useEffect, useState } from "react";

export type Theme = "dark" | "light";

const KEY = "candled.theme";
const system = matchMedia("(prefers-color-scheme: light)");

export function useTheme(): [Theme, () => void] {
  const [chosen, setChosen] = useState<Theme | null>(remembered);
  const [preferred, setPreferred] = useState<Theme>(() => (system.matches ? "light" : "dark"));
  useEffect(() => {
    const changed = (): void => setPreferred(system.matches ? "light" : "dark");
    system.addEventListener("change", changed);
    return () => system.removeEventListener("change", changed);
  }, []);
  const theme = chosen ?? preferred;
  const toggle = useCallback(() => {
    const other = theme === "dark" ? "light" : "dark";
    remember(other);
    setChosen(other);
  }, [theme]);
  // Before children draw: the chart reads its colours from the style that this sets.
  document.documentElement.dataset["theme"] = theme;
  return [theme, toggle];
}

function remembered(): Theme | null {
  try {
    const kept = localStorage.getItem(KEY);
    return kept === "dark" || kept === "light" ? kept : null;
  } catch {
    return null; // storage is forbidden here
  }
}

function remember(theme: Theme): void {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // Storage is forbidden here: the choice lasts until the page is left.
  }
}
